"""Fields of messages that are not for everybody who may read the history."""

import re
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import translate
from typing import Any, Final, TypeAlias

import msgspec

from echo_core.message import BaseMessage

MASKED: Final = "[masked]"
"""What stands in place of a masked value."""
_LEAST: Final = 4
"""A value of fewer characters is not looked for in the text of errors: it would be found everywhere."""
_DEEPEST: Final = 100

_UNKNOWN: Final = object()

Path: TypeAlias = tuple[str, ...]


class Masks:
    """Fields by their paths: keys joined by dots, each a name or, with `*`, `?`, `[...]`, a shape of names.

    A mask means every field whose path ends with it, in upper or lower case: `token` any `token` anywhere,
    `user.email` the `email` of any `user`. Places in a list are no part of a path.
    """

    def __init__(self, masks: Sequence[str]) -> None:
        self._masks = [
            tuple(re.compile(translate(part), re.IGNORECASE) for part in reversed(mask.split(".")))
            for mask in masks
        ]

    def __bool__(self) -> bool:
        return bool(self._masks)

    def masked(self, message: BaseMessage) -> tuple[BaseMessage, list[str]]:
        """The message with its masked fields made unreadable, and which these are."""
        if not self._masks:
            return message, []
        places: list[str] = []
        data = self._of(_plain(message.data), (), places)
        return (msgspec.structs.replace(message, data=data), places) if places else (message, [])

    def masked_text(self, text: str, message: BaseMessage) -> str:
        """Text that was written about the message, without what its masked fields hold."""
        if self._masks and text:
            for value in sorted(set(self._values(_plain(message.data), ())), key=len, reverse=True):
                text = text.replace(value, MASKED)
        return text

    def _is_masked(self, path: Path) -> bool:
        return any(
            len(mask) <= len(path)
            and all(part.match(key) for part, key in zip(mask, reversed(path), strict=False))
            for mask in self._masks
        )

    def _of(self, value: Any, path: Path, places: list[str]) -> Any:
        if len(path) > _DEEPEST or value is _UNKNOWN:
            places.append(".".join(path))
            return MASKED
        if isinstance(value, Mapping):
            return {key: self._field(key, item, path, places) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self._of(item, path, places) for item in value]
        return value

    def _field(self, key: Any, value: Any, path: Path, places: list[str]) -> Any:
        path = (*path, str(key))
        if self._is_masked(path):
            places.append(".".join(path))
            return MASKED
        return self._of(value, path, places)

    def _values(self, value: Any, path: Path) -> Iterator[str]:
        """What the masked fields hold, as text."""
        if isinstance(value, Mapping):
            for key, item in value.items():
                own = (*path, str(key))
                yield from _leaves(item) if self._is_masked(own) else self._values(item, own)
        elif isinstance(value, list | tuple):
            for item in value:
                yield from self._values(item, path)


def _leaves(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list | tuple):
        for item in value:
            yield from _leaves(item)
    elif not isinstance(value, bool | None) and len(str(value)) >= _LEAST:
        yield str(value)


def _plain(data: Any) -> Any:
    """The data with its Structs as mappings; `_UNKNOWN` for what cannot be looked into."""
    try:
        return msgspec.to_builtins(data, builtin_types=(bytes, bytearray, memoryview))
    except (TypeError, ValueError, RecursionError, OverflowError):
        return _UNKNOWN
