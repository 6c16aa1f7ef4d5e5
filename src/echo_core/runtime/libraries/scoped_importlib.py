"""`importlib` as a plugin's scope sees it: the functions that take names take the scope's; and `atexit`."""

import atexit
import importlib
import importlib.metadata
import importlib.resources
import importlib.util
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import wraps
from importlib.machinery import ModuleSpec
from importlib.metadata import Distribution, EntryPoint, EntryPoints, PackageNotFoundError
from types import ModuleType
from typing import Any, Final, Protocol

from opentelemetry.util import _importlib_metadata

from echo_core.runtime.libraries.exits import Exits
from echo_core.runtime.libraries.platform import is_platform
from echo_core.runtime.libraries.store import Site

# Each takes a package, or its name, as the first argument. Some are gone in some versions of Python.
_RESOURCE_FUNCTIONS: Final = (
    "contents",
    "files",
    "is_resource",
    "open_binary",
    "open_text",
    "path",
    "read_binary",
    "read_text",
)


class Names(Protocol):
    """What is needed of a scope."""

    @property
    def site(self) -> Site:
        """Where its packages are."""

    def import_module(self, name: str, package: str | None = None) -> ModuleType:
        """The module that the scope calls `name`."""

    def find_spec(self, name: str, package: str | None = None) -> ModuleSpec | None:
        """The spec of the module that the scope calls `name`."""

    @property
    def exits(self) -> Exits:
        """What its modules want to be called at their end."""


class View(ModuleType):
    """A module of the standard library in which some functions are replaced."""

    def __init__(self, real: ModuleType, replaced: Mapping[str, object]) -> None:
        super().__init__(real.__name__, real.__doc__)
        self.__dict__.update(replaced)
        self._real = real

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


def views(scope: Names) -> dict[str, ModuleType]:
    """The replaced modules by name, for the scope."""
    resources = {
        name: _with_scoped_package(getattr(importlib.resources, name), scope)
        for name in _RESOURCE_FUNCTIONS
        if hasattr(importlib.resources, name)
    }
    metadata = _metadata_functions(scope)
    children: dict[str, ModuleType] = {
        "metadata": View(importlib.metadata, metadata),
        "resources": View(importlib.resources, resources),
        "util": View(importlib.util, {"find_spec": scope.find_spec}),
    }
    root = View(importlib, {"import_module": scope.import_module, **children})
    # By its own name for importlib.metadata OpenTelemetry's instrumentations ask what they can instrument.
    by_opentelemetry = View(_importlib_metadata, metadata)
    return {
        "importlib": root,
        **{f"importlib.{name}": view for name, view in children.items()},
        _importlib_metadata.__name__: by_opentelemetry,
        "atexit": View(atexit, {"register": scope.exits.register, "unregister": scope.exits.unregister}),
    }


def _with_scoped_package(function: Callable[..., Any], scope: Names) -> Callable[..., Any]:
    @wraps(function)
    def scoped(*arguments: Any, **named: Any) -> Any:
        if not arguments and not named:  # from Python 3.12 on: the caller's own package
            arguments = (sys._getframe(1).f_globals["__package__"],)
        named = {
            key: _package(value, scope) if key in ("anchor", "package") else value
            for key, value in named.items()
        }
        return function(*(_package(value, scope) for value in arguments[:1]), *arguments[1:], **named)

    return scoped


def _package(value: object, scope: Names) -> object:
    return scope.import_module(value) if isinstance(value, str) else value


def _metadata_functions(scope: Names) -> dict[str, object]:
    """`importlib.metadata`, for what the library carries and for the platform packages."""
    folder = [str(scope.site.path)]

    class ScopedEntryPoint(EntryPoint):
        def load(self) -> Any:
            found: Any = scope.import_module(self.module)
            for attribute in filter(None, (self.attr or "").split(".")):
                found = getattr(found, attribute)
            return found

    def carried() -> Iterable[Distribution]:
        return Distribution.discover(path=folder)

    def distribution(distribution_name: str) -> Distribution:
        for found in Distribution.discover(name=distribution_name, path=folder):
            return found
        if is_platform(distribution_name):
            return importlib.metadata.distribution(distribution_name)
        raise PackageNotFoundError(distribution_name)

    def distributions(**context: Any) -> Iterator[Distribution]:
        if context:
            yield from importlib.metadata.distributions(**context)
            return
        yield from carried()
        yield from (found for found in importlib.metadata.distributions() if is_platform(found.name))

    def entry_points(**selected: Any) -> EntryPoints:
        points = (
            ScopedEntryPoint(point.name, point.value, point.group)
            for found in carried()
            for point in found.entry_points
        )
        return EntryPoints(points).select(**selected)

    return {
        "distribution": distribution,
        "distributions": distributions,
        "entry_points": entry_points,
        "files": lambda distribution_name: distribution(distribution_name).files,
        "metadata": lambda distribution_name: distribution(distribution_name).metadata,
        "requires": lambda distribution_name: distribution(distribution_name).requires,
        "version": lambda distribution_name: distribution(distribution_name).version,
    }
