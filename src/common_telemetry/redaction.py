"""Attributes that must not leave the process."""

import re
from collections.abc import Mapping, Sequence
from fnmatch import translate
from typing import Any, Final

# Beyond, somebody makes keys out of data; those are looked at each time.
_KEYS_KEPT: Final = 4_096


class Redaction:
    """Takes out attributes by their keys, wherever they are.

    On a span, an event, a link, a measurement, a log record, the resource, or within another attribute.

    A pattern is a key or, with `*`, `?` and `[...]`, a shape of keys, as for file names; upper and lower case
    are the same. The whole attribute goes, because a value that is put in its place would still tell that,
    and how often, there was one.
    """

    def __init__(self, patterns: Sequence[str]) -> None:
        self._hidden = re.compile("|".join(map(translate, patterns)) or r"(?!)", re.IGNORECASE)
        self._known: dict[str, bool] = {}
        self.is_active = bool(patterns)

    def keeps(self, key: str) -> bool:
        """Whether an attribute of this key may leave the process."""
        known = self._known.get(key)
        if known is None:
            known = self._hidden.match(key) is None
            if len(self._known) < _KEYS_KEPT:
                self._known[key] = known
        return known

    def of(self, attributes: Mapping[str, Any]) -> dict[str, Any]:
        """A copy of `attributes` without those that must not leave."""
        return {str(key): self.of_value(value) for key, value in attributes.items() if self.keeps(str(key))}

    def of_value(self, value: Any) -> Any:
        """The same for what may be, or contain, attributes."""
        if isinstance(value, Mapping):
            return self.of(value)
        if isinstance(value, Sequence) and not isinstance(value, str | bytes):
            return tuple(self.of_value(part) for part in value)
        return value


NO_REDACTION: Final = Redaction(())
