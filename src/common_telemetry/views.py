"""Views for the SDK's meter providers: what must not be on a time series."""

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
