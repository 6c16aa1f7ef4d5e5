"""How the spans of messages are written. Written twice: here, and in C (`layout.pyx`), as `primitives` is."""

from collections.abc import Sequence
from struct import Struct
from typing import Any, Final

from common_telemetry.engines.fast.pile import Pile

LONGEST: Final = 1_000
"""Bytes of ids that a layout is made for."""
BITS: Final = 10
"""So many bits of a shape are one length: LONGEST fits in."""


class MessageIds:
    """The ids of a message, of its root and its parents, as text and as they are written."""

    __slots__ = ("_message", "_parent", "_root", "message_id", "parent_ids", "root_id", "shape")

    message_id: str
    root_id: str
    parent_ids: tuple[str, ...]
    shape: int
    """Lengths of the id, the root's, and the parent's plus one or 0 where there is none, in one number."""
    _message: bytes
    _root: bytes
    _parent: bytes


def ids_of(
    message_id: str, root_id: str, parent_ids: tuple[str, ...], near: MessageIds | None = None
) -> MessageIds | None:
    """The ids in both forms; None for what a layout has no form for: no text, much text, several parents.

    `near` are those of the message in hand, which has most of its bytes in common with what is made from it.
    """
    made = MessageIds()
    try:
        message = message_id.encode()
        root = near._root if near is not None and near.root_id is root_id else root_id.encode()
        if not parent_ids:
            parent, length = b"", -1
        else:
            (only,) = parent_ids
            parent = near._message if near is not None and near.message_id is only else only.encode()
            length = len(parent)
    except (AttributeError, ValueError, TypeError):
        return None
    if not message or len(message) + len(root) + length > LONGEST:
        return None
    made.message_id = message_id
    made.root_id = root_id
    made.parent_ids = parent_ids
    made._message = message
    made._root = root
    made._parent = parent
    made.shape = (len(message) << BITS | len(root)) << BITS | length + 1
    return made


class Layout:
    """How the message spans of one site and shape are written: constant bytes, with room between them."""

    __slots__ = ("_constants", "_is_processing", "_pack")

    def __init__(self, parts: Sequence[bytes | str]) -> None:
        """Constant bytes and the `struct` forms of the fields between them, in turn.

        The fields are in this order: trace id, span id, parent's span id, start, end, message id, root id,
        parent id, message id, root id; and for processing, time in the queue, trace id, parent's span id and
        message id.
        """
        form = "".join(f"{len(part)}s" if isinstance(part, bytes) else part for part in parts)
        self._pack = Struct(f"<{form}").pack
        self._constants = tuple(part for part in parts if isinstance(part, bytes))
        self._is_processing = len(self._constants) > 11

    def write(
        self,
        pile: Pile,
        origin: Any,
        trace_id: bytes,
        span_id: bytes,
        parent_id: bytes | None,
        start_ns: int,
        end_ns: int,
        ids: MessageIds,
        queue_time_ms: float = 0.0,
    ) -> None:
        """Put a span on the pile."""
        message, root, parent_id = ids._message, ids._root, parent_id or b""
        if self._is_processing:
            a, b, c, d, e, f, g, h, i, j, k, m, n, o, p = self._constants
            written = self._pack(
                *(a, trace_id, b, span_id, c, parent_id, d, start_ns, e, end_ns),
                *(f, message, g, root, h, ids._parent, i, message, j, root, k, queue_time_ms),
                *(m, trace_id, n, parent_id, o, message, p),
            )
        else:
            a, b, c, d, e, f, g, h, i, j, k = self._constants
            written = self._pack(
                *(a, trace_id, b, span_id, c, parent_id, d, start_ns, e, end_ns),
                *(f, message, g, root, h, ids._parent, i, message, j, root, k),
            )
        pile.write(origin, written)
