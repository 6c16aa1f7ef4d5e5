"""An OpenTelemetry context that is made only where somebody looks into it."""

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from typing import Any, Final

from opentelemetry import context as otel_context
from opentelemetry.context import Context
from opentelemetry.context.contextvars_context import ContextVarsRuntimeContext


class LazyContext(dict):  # type: ignore[type-arg] # noqa: PLW1641 - as it is compiled; no dictionary has one
    """What the context of a message is: there for everybody, looked into by few.

    A subclass says in `content` what is in it, which is never nothing. Every way to look fills it first.
    It is a dictionary, but no `Context`, because compiled it can have no base in Python; the API asks for a
    mapping only.
    """

    __slots__ = ()

    @abstractmethod
    def content(self) -> Mapping[str, object]:
        """All of it."""

    def __setitem__(self, key: str, value: object) -> None:
        raise ValueError("a context never changes")

    def _fill(self) -> None:
        # Two threads may do it at once; both find the same.
        if not dict.__len__(self):
            dict.update(self, self.content())

    def get(self, key: str, default: object = None) -> Any:
        self._fill()
        return dict.get(self, key, default)

    def __getitem__(self, key: str) -> object:
        self._fill()
        return dict.__getitem__(self, key)

    def __contains__(self, key: object) -> bool:
        self._fill()
        return dict.__contains__(self, key)

    def __iter__(self) -> Iterator[str]:
        self._fill()
        return dict.__iter__(self)

    def __reversed__(self) -> Iterator[str]:
        self._fill()
        return dict.__reversed__(self)

    def __len__(self) -> int:
        self._fill()
        return dict.__len__(self)

    def __bool__(self) -> bool:
        return True

    def __eq__(self, other: object) -> bool:
        self._fill()
        return dict.__eq__(self, other)

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __or__(self, other: Any) -> Any:
        return self.copy() | other

    def __ror__(self, other: Any) -> Any:
        return other | self.copy()

    def __repr__(self) -> str:
        self._fill()
        return dict.__repr__(self)

    def copy(self) -> dict[str, object]:
        self._fill()
        return dict.copy(self)

    def keys(self) -> Any:
        self._fill()
        return dict.keys(self)

    def values(self) -> Any:
        self._fill()
        return dict.values(self)

    def items(self) -> Any:
        self._fill()
        return dict.items(self)


AnyContext = Context | LazyContext
"""What may be current."""


def _current_context() -> "ContextVar[Context] | None":
    """The variable in which the API keeps the current context, where it is the API's usual one.

    Setting it costs a fifth of `attach`. It is not public; where it is not there, `attach` is called.
    """
    runtime = getattr(otel_context, "_RUNTIME_CONTEXT", None)
    found = getattr(runtime, "_current_context", None) if type(runtime) is ContextVarsRuntimeContext else None
    return found if isinstance(found, ContextVar) else None


class _ByCalls:
    """The same three calls on a context that is kept somewhere else."""

    get = staticmethod(otel_context.get_current)
    set = staticmethod(otel_context.attach)
    reset = staticmethod(otel_context.detach)


CURRENT: Final[Any] = _current_context() or _ByCalls()
"""The current context: `get`, `set` and `reset`, as of a ContextVar."""
