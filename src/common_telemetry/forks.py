"""What must happen when the process forks: locks are free, threads run, and nothing is told twice."""

import os
from contextlib import AbstractContextManager
from typing import Any, ClassVar, Final, Protocol
from weakref import WeakSet


class ForkAware(Protocol):
    """Has state that a fork would copy."""

    def before_fork(self) -> None:
        """Get hold of every lock, so that no other thread holds one in the moment of the copy."""

    def after_fork_in_parent(self) -> None:
        """Let the locks go."""

    def after_fork_in_child(self) -> None:
        """Let the locks go, and begin anew: what was there belongs to the parent."""


_aware: Final[WeakSet[ForkAware]] = WeakSet()
_holding: list[ForkAware] = []


def follow(one: ForkAware) -> None:
    """Tell `one` of every fork, as long as it lives. Python has no way to take a handler back."""
    _aware.add(one)


def free_in_child(lock: AbstractContextManager[Any]) -> None:
    """Have a lock that lives as long as the process free in forked children, whoever holds it."""
    follow(_Held(lock))


class _Held:
    _forever: ClassVar[list["_Held"]] = []

    def __init__(self, lock: AbstractContextManager[Any]) -> None:
        self._lock = lock
        self._forever.append(self)

    def before_fork(self) -> None:
        self._lock.__enter__()

    def after_fork_in_parent(self) -> None:
        self._lock.__exit__(None, None, None)

    def after_fork_in_child(self) -> None:
        self._lock.__exit__(None, None, None)


def _before() -> None:
    _holding[:] = _aware
    for one in _holding:
        one.before_fork()


def _in_parent() -> None:
    for one in reversed(_holding):
        one.after_fork_in_parent()
    _holding.clear()


def _in_child() -> None:
    for one in reversed(_holding):
        one.after_fork_in_child()
    _holding.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before, after_in_parent=_in_parent, after_in_child=_in_child)
