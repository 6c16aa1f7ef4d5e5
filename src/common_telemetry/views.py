"""Views for the SDK's meter providers: what must not be on a time series."""

import logging
from collections.abc import Callable, Sequence
from copy import copy
from typing import Any, cast

from opentelemetry.sdk.metrics.view import View

Keep = Callable[[str], bool]


def keeping(keep: Keep, views: Sequence[View] = ()) -> list[View]:
    """`views` and one for all other instruments; none lets an attribute on a series that `keep` does not."""
    mine = [copy(view) for view in views]
    for view in mine:
        view._attribute_keys = cast("set[str]", _Kept(keep, view._attribute_keys))
    logging.getLogger("opentelemetry.sdk.metrics._internal.metric_reader_storage").addFilter(_FALSE_ALARMS)
    return [*mine, _Otherwise(keep, mine)]


class _Kept:
    """The SDK's views have a set of the keys to keep, of which they only ask `key in keys`."""

    def __init__(self, keep: Keep, listed: Any = None) -> None:
        self._keep = keep
        self._listed = listed

    def __contains__(self, key: str) -> bool:
        return self._keep(key) and (self._listed is None or key in self._listed)


class _Otherwise(View):
    """For every instrument no other view matches: two matching views would make two streams of it."""

    def __init__(self, keep: Keep, others: Sequence[View]) -> None:
        super().__init__(instrument_name="*", attribute_keys=cast("set[str]", _Kept(keep)))
        self._others = others

    def _match(self, instrument: Any) -> bool:
        return not any(view._match(instrument) for view in self._others)


class _SameNameInTwoScopes(logging.Filter):
    """Keeps back a false alarm: metrics of one name in two scopes are two metrics, and the SDK warns of them.

    Instruments of one meter are to be compared (metrics SDK, "Duplicate instrument registration"); the
    SDK compares those of all meters, and so finds our one view in conflict with itself.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record goes on."""
        views = record.args if isinstance(record.args, tuple) else ()
        return not (len(views) == 2 and views[0] is views[1] and isinstance(views[0], _Otherwise))


_FALSE_ALARMS = _SameNameInTwoScopes()
