"""What one plugin can change for the whole process, and so for its neighbours and for the host.

Some of it shows whose it is: a handler of a class of the plugin's, a path within its library. Where it does
not (a variable of the environment, a plain `StreamHandler`), it is the plugin's if it appeared while the
plugin alone was being loaded or initialised.
"""

import asyncio
import logging
import os
import signal
import socket
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from types import ModuleType
from typing import Any, Final

from echo_core.runtime.leftovers.leftover import Leftover
from echo_core.runtime.leftovers.owner import Owner

Key = tuple[str, str]
"""What kind of thing it is, and its name."""
Things = Mapping[Key, Any]

_ABSENT: Final = object()
_LEFT: Final = "left as it is: others may need it by now"
_ENVIRONMENT, _PATH, _FILTER, _SIGNAL, _LOG, _HOOK, _POLICY, _FOLDER, _TIMEOUT, _MODULE, _IMPORT = (
    *("environment variable", "sys.path entry", "warnings filter", "signal handler", "log handler"),
    *("hook", "event loop policy", "working directory", "socket default timeout", "module", "import hook"),
)


def surroundings() -> dict[Key, Any]:
    """Everything of the kind that there is now."""
    return dict(_things())


def _things() -> Iterator[tuple[Key, Any]]:
    for name, value in os.environ.items():
        yield (_ENVIRONMENT, name), value
    for path in sys.path:
        yield (_PATH, path), path
    for entry in warnings.filters:
        yield (_FILTER, _filter_in_words(entry)), entry
    for number in signal.valid_signals():
        yield (_SIGNAL, _signal_name(number)), signal.getsignal(number)
    for logger in _loggers():
        for handler in logger.handlers:
            yield (_LOG, f"{id(handler)} {logger.name}"), (logger, handler)
    for name, (place, attribute, _) in _HOOKS.items():
        yield (_HOOK, name), getattr(place, attribute)
    for place in (sys.meta_path, sys.path_hooks):
        for hook in place:
            yield (_IMPORT, str(id(hook))), (place, hook)
    yield (_POLICY, ""), asyncio.get_event_loop_policy()
    yield (_FOLDER, ""), os.getcwd()
    yield (_TIMEOUT, ""), socket.getdefaulttimeout()


def _loggers() -> Iterator[logging.Logger]:
    yield logging.root
    for logger in list(logging.root.manager.loggerDict.values()):
        if isinstance(logger, logging.Logger):
            yield logger


class Window:
    """A time in which a plugin is being loaded or initialised: what appears then is its doing.

    Unless another plugin was, too: then nobody can tell.
    """

    _open: "set[Window]" = set()  # noqa: RUF012  (of all hosts in the process)

    def __enter__(self) -> "Window":
        self._is_shared = bool(Window._open)
        for other in Window._open:
            other._is_shared = True
        Window._open.add(self)
        self._before = surroundings()
        self.changed: dict[Key, tuple[Any, Any]] = {}
        """What is now as it was not before: what it was, and what it is."""
        return self

    def __exit__(self, *_: object) -> None:
        Window._open.discard(self)
        before = self._before
        del self._before  # it refers to what is other plugins'
        if not self._is_shared:
            self.changed = {
                key: (before.get(key, _ABSENT), value)
                for key, value in _things()
                if key[0] != _IMPORT and not _same(before.get(key, _ABSENT), value)
            }


def _same(one: Any, other: Any) -> bool:
    return one is other or (
        type(one) is type(other) and isinstance(one, str | float | tuple) and one == other
    )


def left_in(
    owner: Owner, changed: Mapping[Key, tuple[Any, Any]], held: list[logging.Handler]
) -> list[Leftover]:
    """What the plugin changed and did not change back: told, and put right where nobody else can mind.

    `changed` is what appeared in its windows, `held` the log handlers that its own objects hold.
    """
    found = []
    for key, value in _things():
        was, became = changed.get(key, (_ABSENT, _ABSENT))
        is_own = _is_own(owner, key[0], value, held)
        if is_own or (became is not _ABSENT and _same(became, value)):
            undo = _undo(key, value, was) if is_own or key[0] in _UNDONE_IF_NEW else _LEFT
            found.append(Leftover(key[0], _name(owner, key, value), undo))
    return [*found, *_modules(owner)]


def _is_own(owner: Owner, kind: str, value: Any, held: list[logging.Handler]) -> bool:
    if kind == _PATH:
        return owner.has_path(value)
    if kind == _FILTER:
        return owner.has(value[2])
    if kind == _LOG:
        return owner.has(value[1]) or any(value[1] is handler for handler in held)
    if kind == _IMPORT:
        return owner.has(value[1])
    return kind in (_SIGNAL, _HOOK, _POLICY) and owner.has(value)


def _name(owner: Owner, key: Key, value: Any) -> str:
    kind, name = key
    if kind in (_SIGNAL, _HOOK, _POLICY):
        return f"{name} {owner.named(value)}".strip()
    if kind == _LOG:
        return f"{owner.named(type(value[1]))} of the logger {value[0].name}"
    if kind == _IMPORT:
        return owner.named(value[1])
    return name or str(value)


def _undo(key: Key, value: Any, was: Any) -> str:
    """Put it right; what was done, in words."""
    kind, name = key
    try:
        return _UNDO[kind](name, value, was) if kind in _UNDO else _LEFT
    except (ValueError, OSError) as error:
        return f"left as it is: {error}"


def _undo_path(name: str, value: Any, was: Any) -> str:
    sys.path.remove(value)
    return "removed"


def _undo_filter(name: str, value: Any, was: Any) -> str:
    warnings.filters.remove(value)  # type: ignore[attr-defined]  # it is a list
    return "removed"


def _undo_signal(name: str, value: Any, was: Any) -> str:
    if threading.current_thread() is not threading.main_thread():
        return "left as it is: only the main thread can change it"
    before = signal.SIG_DFL if was is _ABSENT or was is None else was
    signal.signal(int(name) if name.isdigit() else signal.Signals[name], before)
    return "restored"


def _undo_log(name: str, value: Any, was: Any) -> str:
    logger, handler = value
    logger.removeHandler(handler)
    handler.close()
    return "removed"


def _undo_import(name: str, value: Any, was: Any) -> str:
    place, hook = value
    place.remove(hook)
    return "removed"


def _undo_hook(name: str, value: Any, was: Any) -> str:
    place, attribute, standard = _HOOKS[name]
    setattr(place, attribute, standard() if was is _ABSENT else was)
    return "restored"


def _undo_policy(name: str, value: Any, was: Any) -> str:
    asyncio.set_event_loop_policy(None if was is _ABSENT else was)
    return "restored"


def _modules(owner: Owner) -> Iterator[Leftover]:
    """Modules of its own that stand under other names than its scope's."""
    own = {id(module) for module in owner.modules()}
    for name, module in list(sys.modules.items()):
        # Most are plain modules of others, and there are thousands of them: what tells that comes first.
        may_be = id(module) in own or (type(module) is not ModuleType and owner.has(type(module)))
        if may_be and not owner.has_module(name):
            del sys.modules[name]
            yield Leftover(_MODULE, f"sys.modules[{name!r}]", "removed")


def _filter_in_words(entry: tuple[Any, ...]) -> str:
    action, message, category, module, line = entry
    said = [
        action,
        getattr(message, "pattern", message),
        category.__name__,
        getattr(module, "pattern", module),
    ]
    return ":".join(str(part or "") for part in [*said, line])


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # real-time signals have no names
        return str(number)


_HOOKS: Final[Mapping[str, tuple[Any, str, Callable[[], Any]]]] = {
    "sys.excepthook": (sys, "excepthook", lambda: sys.__excepthook__),
    "sys.unraisablehook": (sys, "unraisablehook", lambda: sys.__unraisablehook__),
    "threading.excepthook": (threading, "excepthook", lambda: threading.__excepthook__),
    "sys.stdout": (sys, "stdout", lambda: sys.__stdout__),
    "sys.stderr": (sys, "stderr", lambda: sys.__stderr__),
}
_UNDONE_IF_NEW: Final = frozenset({_FILTER, _SIGNAL, _LOG, _HOOK, _POLICY})
"""Put right also where only the time at which it appeared tells whose it is."""
_UNDO: Final[Mapping[str, Callable[[str, Any, Any], str]]] = {
    _PATH: _undo_path,
    _FILTER: _undo_filter,
    _SIGNAL: _undo_signal,
    _LOG: _undo_log,
    _IMPORT: _undo_import,
    _HOOK: _undo_hook,
    _POLICY: _undo_policy,
}
