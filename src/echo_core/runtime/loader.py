"""From a verified library to a plugin: the only place where plugin code is imported."""

import inspect
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from types import ModuleType
from typing import Any, Final, TypeVar

from echo_core.errors import PluginLoadError
from echo_core.plugin import Plugin
from echo_core.roles import Filter, Router, Sink, Source, Transformer, Validator
from echo_core.runtime.libraries.importer import Scope, Undeclared, open_scope
from echo_core.runtime.libraries.library import Library
from echo_core.runtime.libraries.store import Store

R = TypeVar("R")

_ROLES: Final[Mapping[str, type[Any]]] = {
    "validator": Validator,
    "transformer": Transformer,
    "filter": Filter,
    "router": Router,
    "source": Source,
    "sink": Sink,
}
_SHOWN_FRAMES: Final = 5


@dataclass(frozen=True, slots=True)
class LoadedPlugin:
    """A plugin that was made by its library's entry point, and not yet initialised."""

    plugin: Plugin
    library: Library
    _scope: Scope = field(repr=False)

    def unload(self) -> None:
        """Forget the plugin's modules; what still holds an object of them keeps those alive. Safe twice.

        Compiled packages stay in the process, under their real names.
        """
        self._scope.close()


def load(library: Library, store: Store) -> LoadedPlugin:
    """Import the plugin from the store, and call its entry point.

    Raises `LibraryError` if the library is not what it was when it was read, and `PluginLoadError` for
    whatever the plugin's code does wrong, with its file and line. Nothing of a plugin that fails stays.
    """
    scope = open_scope(library.name, library.digest, store.ingest(library))
    try:
        return LoadedPlugin(_make_plugin(library, scope), library, scope)
    except BaseException:
        scope.close()
        raise


def _make_plugin(library: Library, scope: Scope) -> Plugin:
    manifest = library.manifest
    package = _run(library, scope, "cannot be imported", lambda: scope.import_module(manifest.name))
    entry_point = _entry_point(library, package)
    plugin = _run(library, scope, f"failed in {manifest.entry_point}()", entry_point)
    if not isinstance(plugin, Plugin):
        raise _error(
            library, f"made no plugin: {_what_it_is(plugin)}", fix="return an instance of the plugin's class"
        )
    role = _ROLES.get(manifest.plugin_type)
    if role and not isinstance(plugin, role):
        raise _error(
            library,
            f"is no {manifest.plugin_type}",
            why=f"{type(plugin).__name__} does not derive from {role.__name__}",
            fix=f"derive it from echo_core.{role.__name__}, or change plugin_type in manifest.json",
        )
    if not plugin.name:
        plugin.name = manifest.name
    return plugin


def _entry_point(library: Library, package: ModuleType) -> Callable[[], object]:
    name = library.manifest.entry_point
    found: Callable[[], object] | None = getattr(package, name, None)
    if callable(found):
        return found
    near = get_close_matches(name, [name for name, value in vars(package).items() if callable(value)], n=1)
    raise _error(
        library,
        f"has no function {name}()",
        why=f"{library.name}/__init__.py does not offer it",
        fix=f"define `def {name}() -> Plugin`"
        + (f", or name {near[0]!r} as the entry_point" if near else ""),
    )


def _what_it_is(value: object) -> str:
    if inspect.iscoroutine(value):
        value.close()  # or Python warns that it was never awaited
        return "the entry point is a coroutine, and must be a plain function"
    if isinstance(value, type):
        return f"the entry point returned the class {value.__name__}, not an instance"
    return f"the entry point returned {type(value).__name__}"


def _run(library: Library, scope: Scope, what: str, function: Callable[[], R]) -> R:
    """Call plugin code. Whatever it raises, also SystemExit, becomes a `PluginLoadError`."""
    try:
        return function()
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # noqa: BLE001  (plugin code may raise anything)
        failure = _failure(library, scope.site.path, what, error)
    # Raised out here, it does not hold the plugin's frames, and with them all its modules, alive.
    raise failure


def _failure(library: Library, site: Path, what: str, error: BaseException) -> PluginLoadError:
    if isinstance(error, SyntaxError) and error.filename:
        where = f"{_within(site, error.filename)}:{error.lineno}"
        return _error(library, what, where=where, why=f"SyntaxError: {error.msg}")
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if Path(frame.filename).is_relative_to(site)
    ]
    places = [f"{_within(site, frame.filename)}:{frame.lineno}" for frame in frames]
    tail = [f"  {place} in {frame.name}: {frame.line}" for place, frame in zip(places, frames, strict=True)][
        -_SHOWN_FRAMES:
    ]
    reason = traceback.format_exception_only(error)[-1].strip()
    fix = ""
    if isinstance(error, Undeclared):
        reason = f"ModuleNotFoundError: {error}"
        fix = f"add the distribution of {error.name!r} to dependencies in pyproject.toml, and build again"
    return _error(library, what, where=places[-1] if places else "", why="\n".join([reason, *tail]), fix=fix)


def _within(site: Path, filename: str) -> str:
    path = Path(filename)
    return path.relative_to(site).as_posix() if path.is_relative_to(site) else filename


def _error(library: Library, what: str, *, where: str = "", why: str = "", fix: str = "") -> PluginLoadError:
    return PluginLoadError(
        f"the plugin {library.name} {library.version} {what}",
        where=where or str(library.path),
        why=why,
        fix=fix or f"mend it, and build it again: echo-core build {library.name} {library.build_type}",
    )
