"""What is a plugin's own: code, functions, classes and objects of the modules in its scope."""

import functools
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType, MethodType, ModuleType
from typing import Any, Final

from echo_core.runtime.libraries.importer import Scope

_HOST: Final = str(Path(__file__).parents[2])
"""The folder of echo_core."""


def is_hosts(frames: Sequence[FrameType]) -> bool:
    """Whether code of the host has a part in the stack."""
    return any(frame.f_code.co_filename.startswith(_HOST) for frame in frames)


class Owner:
    """Tells what belongs to the plugin in this scope. What is shared belongs to nobody."""

    def __init__(self, scope: Scope) -> None:
        self.scope: Final = scope
        self._prefix = f"{scope.prefix}."
        self._site = f"{scope.site.path}/"

    def modules(self) -> Iterator[ModuleType]:
        """Its modules."""
        for name, module in list(sys.modules.items()):
            if name.startswith(self._prefix):
                yield module

    def has_module(self, name: object) -> bool:
        """Whether a module of this name is its own."""
        return isinstance(name, str) and name.startswith(self._prefix)

    def has_path(self, path: object) -> bool:
        """Whether the path is within its library."""
        return isinstance(path, str) and f"{path}/".startswith(self._site)

    def has(self, value: Any) -> bool:
        """Whether the function, class or object is its own, by where it, or its class, was defined."""
        if isinstance(value, functools.partial):
            return self.has(value.func)
        if isinstance(value, MethodType):
            return self.has(value.__self__) or self.has(value.__func__)
        defined = getattr(value, "__module__", None)
        return self.has_module(defined) or self.has_module(type(value).__module__)

    def began(self, frames: Sequence[FrameType]) -> bool:
        """Whether a stack, its outermost frame first, was begun by the plugin, and not by the host."""
        for frame in frames:
            if frame.f_code.co_filename.startswith(_HOST):
                return False
            if self.has_module(frame.f_globals.get("__name__")):
                return True
        return False

    def is_of_plugin(self, value: Any) -> bool:
        """Whether the function is of the plugin's own package, rather than of one it depends on."""
        package = f"{self._prefix}{self.scope.plugin}"
        module = getattr(value, "__module__", None) or type(value).__module__
        return module == package or str(module).startswith(f"{package}.")

    def place(self, frames: Sequence[FrameType]) -> str:
        """The innermost frame of its own, as `file:line in function`; empty for none."""
        for frame in reversed(frames):
            if self.has_module(frame.f_globals.get("__name__")):
                code = frame.f_code
                return f"{code.co_filename.removeprefix(self._site)}:{frame.f_lineno} in {code.co_name}"
        return ""

    def named(self, value: Any) -> str:
        """A function or an object in words, without the private prefix."""
        if isinstance(value, functools.partial):
            return self.named(value.func)
        name = getattr(value, "__qualname__", None) or type(value).__qualname__
        module = getattr(value, "__module__", None) or type(value).__module__
        return f"{str(module).removeprefix(self._prefix)}.{name}"
