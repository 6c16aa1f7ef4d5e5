"""`context.state`: what a source must know to go on where it was."""

from collections.abc import Iterator, MutableMapping
from typing import Any, Final

import msgspec

from echo_core.errors import StateError
from echo_core.message import encode_data, id_from, new_id

MAX_BYTES: Final = 64 * 1024
"""Of a state, encoded: it goes to disk many times a second."""
EMPTY: Final = msgspec.msgpack.encode({})


class SourceState(MutableMapping[str, Any]):
    """The values that a source keeps, and the ids that follow from them.

    A message that is published again from the same state is the same message, so it has the same id: whoever
    has seen it knows it again.
    """

    def __init__(self, owner: str, generation: str, encoded: bytes = EMPTY) -> None:
        self._owner = owner
        self._generation = generation
        self.restore(encoded)

    def restore(self, encoded: bytes) -> None:
        """Be what a snapshot says."""
        self._values: dict[str, Any] = msgspec.msgpack.decode(encoded)
        self._snapshot = encoded
        self._published = 0
        """Messages from the state as it is."""

    def __getitem__(self, key: str) -> Any:
        return self._values[key]

    def __setitem__(self, key: str, value: Any) -> None:
        if not isinstance(key, str):
            raise StateError(
                f"{key!r} is no name of a value", where=f"state of {self._owner}", fix="use a text"
            )
        self._values[key] = value

    def __delitem__(self, key: str) -> None:
        del self._values[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return f"<state of {self._owner}: {self._values!r}>"

    def snapshot(self) -> bytes:
        """What it says now. Raises `StateError` for what cannot be kept."""
        try:
            encoded = msgspec.msgpack.encode(self._values)
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            raise StateError(
                f"the state of {self._owner} cannot be kept",
                why=str(error),
                fix="keep JSON-like values: texts, numbers, lists",
            ) from error
        if len(encoded) > MAX_BYTES:
            raise StateError(
                f"the state of {self._owner} is too large",
                why=f"it has {len(encoded):,} bytes, and at most {MAX_BYTES:,} are kept",
                fix="keep a position, and not what was read up to it",
            )
        if encoded != self._snapshot:
            self._snapshot, self._published = encoded, 0
        return self._snapshot

    def new_id(self, topic: str, data: Any) -> str:
        """The id of a message that is published now; raises `StateError`."""
        snapshot = self.snapshot()
        self._published += 1
        content = encode_data(data)
        if content is None:  # its transport will refuse it, or never lets it out of the process
            return new_id()
        return id_from(
            self._generation, snapshot, self._published.to_bytes(8, "little"), topic.encode(), content
        )
