"""Plugin code is imported here, each plugin into a scope of its own.

Inside a scope a plugin's package, and every package that its library carries, has its usual name. In
`sys.modules` it stands below a private prefix, so versions that contradict each other live side by
side. A scope sees its own packages, the platform packages and the standard library; nothing else of
the host. Compiled packages cannot be loaded twice by one interpreter: those are shared, under their
real names, in one version a process (`echo_core.runtime.libraries.compiled`).
"""

import builtins
import hashlib
import importlib
import importlib.util
import logging
import sys
import threading
from collections.abc import Mapping, Sequence
from functools import cached_property, partial
from importlib.machinery import (
    EXTENSION_SUFFIXES,
    SOURCE_SUFFIXES,
    ExtensionFileLoader,
    FileFinder,
    ModuleSpec,
    SourceFileLoader,
)
from types import CodeType, ModuleType
from typing import Any, Final

from echo_core.runtime.libraries.compiled import CompiledPackages
from echo_core.runtime.libraries.exits import Exits
from echo_core.runtime.libraries.platform import PLATFORM_MODULES, PRIVATE_PARTS
from echo_core.runtime.libraries.scoped_importlib import View, views
from echo_core.runtime.libraries.store import Site

_HOST_MODULES: Final = sys.stdlib_module_names | PLATFORM_MODULES | {"__main__"}


class Undeclared(ModuleNotFoundError):
    """A plugin imported a package that is not among its dependencies."""


class Scope:
    """What one loaded plugin can import. `prefix` is the private package that holds it in `sys.modules`."""

    def __init__(self, plugin: str, prefix: str, site: Site, shared: frozenset[str]) -> None:
        carried = frozenset[str]().union(*(wheel.top_levels for wheel in site.wheels))
        self.plugin: Final = plugin
        self.prefix: Final = prefix
        self.site: Final = site
        self._shared = shared
        self._private = carried - shared - _HOST_MODULES
        self._private_parts = tuple(part for part in PRIVATE_PARTS if part.partition(".")[0] in carried)
        self.exits: Final = Exits()
        self._views = views(self)
        self._closed = False
        self.origin: Final = Origin(site, vars(builtins) | {"__import__": self.import_})

    def resolve(self, name: str) -> str:
        """The name in `sys.modules` of the module that the plugin calls `name`.

        Raises `Undeclared` for one that it may not see.
        """
        top = name.partition(".")[0]
        if top in self._private or any(
            name == part or name.startswith(f"{part}.") for part in self._private_parts
        ):
            if self._closed:
                raise ImportError(
                    f"{name} cannot be imported: the plugin {self.plugin} was unloaded", name=name
                )
            return f"{self.prefix}.{name}"
        if top in _HOST_MODULES or top in self._shared or top == self.prefix:
            return name
        raise Undeclared(
            f"No module named {top!r}: the plugin {self.plugin} does not list it among its dependencies",
            name=top,
        )

    def import_(
        self,
        name: str,
        globals: Mapping[str, object] | None = None,
        locals: Mapping[str, object] | None = None,
        fromlist: Sequence[str] | None = (),
        level: int = 0,
    ) -> ModuleType:
        """What `import` statements in the scope call: `builtins.__import__`, with the scope's names."""
        try:
            if level:
                return builtins.__import__(name, globals, locals, fromlist or (), level)
            real = self.resolve(name)
            module = builtins.__import__(real, globals, locals, fromlist or (), 0)
        except ModuleNotFoundError as error:
            self._use_own_name(error)
            raise
        if fromlist:
            return self._views.get(name, module)
        top = name.partition(".")[0]
        return module if real == name and top not in self._views else self._top_level(top)

    def import_module(self, name: str, package: str | None = None) -> ModuleType:
        """`importlib.import_module`, with the scope's names."""
        absolute = importlib.util.resolve_name(name, package) if package else name
        if absolute in self._views:
            return self._views[absolute]
        try:
            return importlib.import_module(self.resolve(absolute))
        except ModuleNotFoundError as error:
            self._use_own_name(error)
            raise

    def find_spec(self, name: str, package: str | None = None) -> ModuleSpec | None:
        """`importlib.util.find_spec`, with the scope's names."""
        try:
            return importlib.util.find_spec(self.resolve(importlib.util.resolve_name(name, package)))
        except Undeclared:
            return None

    def close(self) -> None:
        """Forget the plugin's modules and the loggers named after them. Safe twice."""
        self._closed = True
        _FINDER.remove(self)
        for named in (sys.modules, logging.Logger.manager.loggerDict):
            for name in [name for name in named if name == self.prefix or name.startswith(f"{self.prefix}.")]:
                del named[name]

    def _top_level(self, top: str) -> ModuleType:
        return self._views.get(top) or sys.modules[self.resolve(top)]

    def _use_own_name(self, error: ModuleNotFoundError) -> None:
        """Let the error name the module as the plugin does: code that catches it compares the name."""
        private = f"{self.prefix}."
        if error.name and error.name.startswith(private):
            error.name = error.name.removeprefix(private)
            error.msg = error.msg.replace(private, "")


def open_scope(plugin: str, digest: str, site: Site) -> Scope:
    """A new scope for the plugin whose library has this digest.

    Raises `PluginLoadError` if a compiled package in it is in the process already, in another version.
    """
    return _FINDER.add(plugin, f"_echo_{plugin}_{digest[:8]}", site)


def scope_of(value: object) -> Scope | None:
    """The scope in which the class of this object was defined; None if it was in none."""
    return _FINDER.scope(type(value).__module__.partition(".")[0])


class _Caller:
    """What shared packages find instead of a module they are asked for by name, and that only a scope has.

    `wrapt` for one is compiled, so all plugins share it, and is told by name what to patch: `"httpx"` is the
    package of the plugin that calls it. What does not fail otherwise stays as it is.
    """

    def import_module(self, name: str, package: str | None = None) -> ModuleType:
        """`importlib.import_module`, with the names of the scope that called where there is no other."""
        try:
            return importlib.import_module(name, package)
        except ModuleNotFoundError as error:
            scope = _calling_scope()
            if scope is None or error.name != name.partition(".")[0]:
                raise
            return scope.import_module(name, package)

    def import_(
        self,
        name: str,
        globals: Mapping[str, object] | None = None,
        locals: Mapping[str, object] | None = None,
        fromlist: Sequence[str] | None = (),
        level: int = 0,
    ) -> ModuleType:
        """`builtins.__import__`, in which importlib is one with `import_module` from here."""
        module = builtins.__import__(name, globals, locals, fromlist or (), level)
        return self._importlib if module is importlib else module

    @cached_property
    def _importlib(self) -> ModuleType:
        return View(importlib, {"import_module": self.import_module})


def _calling_scope() -> "Scope | None":
    """The scope of the nearest caller that runs in one."""
    frame = sys._getframe(2)
    while frame is not None:
        scope = getattr(frame.f_builtins.get("__import__"), "__self__", None)
        if isinstance(scope, Scope):
            return scope
        frame = frame.f_back  # type: ignore[assignment]
    return None


class Origin:
    """A verified site as a place to import from. Only bytes that were verified run, and never bytecode."""

    def __init__(self, site: Site, scoped_builtins: Mapping[str, Any] | None = None) -> None:
        self._root = str(site.path)
        self._files = site.files
        self._is_shared = scoped_builtins is None
        self._builtins = scoped_builtins or vars(builtins) | {"__import__": _CALLER.import_}
        self._finders: dict[str, FileFinder] = {}

    def find(self, fullname: str, path: Sequence[str] | None) -> ModuleSpec | None:
        """The module's spec, below the folders in `path`, or at the top of the site."""
        portions = []
        for folder in path or [self._root]:
            spec = self._finder(folder).find_spec(fullname) if self._is_inside(folder) else None
            if spec and spec.loader:
                return spec
            portions += spec.submodule_search_locations or [] if spec else []
        if not portions:
            return None
        namespace = ModuleSpec(fullname, None, is_package=True)
        namespace.submodule_search_locations = _NamespacePath(portions)
        return namespace

    def check(self, path: str, sha256: str) -> None:
        """Raise `ImportError` unless the file at `path` had this digest when the site was verified."""
        if self._files.get(path.removeprefix(f"{self._root}/")) != sha256:
            raise ImportError(f"{path} is not the file that was verified", path=path)

    def prepare(self, module: ModuleType) -> None:
        """Before the module's code runs: give it the scope's `__import__`, or that of what is shared."""
        module.__dict__["__builtins__"] = self._builtins

    def _finder(self, folder: str) -> FileFinder:
        if folder not in self._finders:
            loaders: list[tuple[Any, list[str]]] = [(partial(_SourceLoader, self), SOURCE_SUFFIXES)]
            if self._is_shared:  # compiled packages live outside the scopes
                loaders.insert(0, (partial(_ExtensionLoader, self), EXTENSION_SUFFIXES))
            self._finders[folder] = FileFinder(folder, *loaders)
        return self._finders[folder]

    def _is_inside(self, folder: str) -> bool:
        return folder == self._root or folder.startswith(f"{self._root}/")


class _SourceLoader(SourceFileLoader):
    def __init__(self, origin: Origin, fullname: str, path: str) -> None:
        super().__init__(fullname, path)
        self._origin = origin

    def get_code(self, fullname: str) -> CodeType:
        """The module compiled from its source. Bytecode is neither read nor written."""
        return self.source_to_code(self.get_data(self.path), self.path)

    def get_data(self, path: str) -> bytes:
        data = super().get_data(path)
        self._origin.check(path, hashlib.sha256(data).hexdigest())
        return data

    def exec_module(self, module: ModuleType) -> None:
        self._origin.prepare(module)
        super().exec_module(module)


class _ExtensionLoader(ExtensionFileLoader):
    def __init__(self, origin: Origin, fullname: str, path: str) -> None:
        super().__init__(fullname, path)
        self._origin = origin

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        with open(self.path, "rb") as file:
            self._origin.check(self.path, hashlib.file_digest(file, "sha256").hexdigest())
        return super().create_module(spec)


class _NamespacePath(list[str]):
    """`importlib.resources` knows the path of a namespace package by this name in its text."""

    def __repr__(self) -> str:
        return f"_NamespacePath({super().__repr__()})"


class _Finder:
    """The one entry that we add to `sys.meta_path`. It answers for the scopes and for compiled packages."""

    def __init__(self) -> None:
        self._scopes: dict[str, Scope] = {}
        self._compiled = CompiledPackages()
        self._origins: dict[Site, Origin] = {}
        self._lock = threading.Lock()

    def add(self, plugin: str, wanted: str, site: Site) -> Scope:
        with self._lock:
            prefix, number = wanted, 1
            while prefix in self._scopes:
                number += 1
                prefix = f"{wanted}_{number}"
            shared = self._compiled.admit(plugin, prefix, site)
            scope = self._scopes[prefix] = Scope(plugin, prefix, site, shared)
            package = importlib.util.module_from_spec(ModuleSpec(prefix, None, is_package=True))
            package.__path__ = [str(site.path)]
            sys.modules[prefix] = package
            if self not in sys.meta_path:
                sys.meta_path.insert(0, self)
            return scope

    def scope(self, prefix: str) -> Scope | None:
        return self._scopes.get(prefix)

    def remove(self, scope: Scope) -> None:
        with self._lock:
            self._scopes.pop(scope.prefix, None)
            self._compiled.release(scope.prefix)

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        top = fullname.partition(".")[0]
        if scope := self._scopes.get(top):
            return scope.origin.find(fullname, path)
        if site := self._compiled.site_of(top):
            return self._origins.setdefault(site, Origin(site)).find(fullname, path)
        return None


_CALLER: Final = _Caller()
_FINDER: Final = _Finder()
