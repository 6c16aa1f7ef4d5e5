"""Which modules run compiled here: those that the wheel has compiled, unless `ECHO_CORE_COMPILED` is `no`.

A compiled module lies beside the source that it was made from. Python takes the former where it finds both.
"""

import os
import sys
from collections.abc import Sequence
from importlib.machinery import EXTENSION_SUFFIXES, ExtensionFileLoader, ModuleSpec, PathFinder
from importlib.util import spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Final

VARIABLE: Final = "ECHO_CORE_COMPILED"
_HERE: Final = Path(__file__).parent


class SourceFinder:
    """Finds the source of a module of ours that is there compiled as well."""

    @staticmethod
    def find_spec(
        name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Part of importlib.abc.MetaPathFinder."""
        if name.partition(".")[0] != _HERE.name:
            return None
        found = PathFinder.find_spec(name, path, target)
        if found is None or not isinstance(found.loader, ExtensionFileLoader) or found.origin is None:
            return None
        source = Path(found.origin).with_name(f"{name.rpartition('.')[2]}.py")
        return spec_from_file_location(name, source)


def obey() -> None:
    """Do as the variable says. The package calls this before it imports anything else of its own."""
    if os.environ.get(VARIABLE) == "no" and SourceFinder not in sys.meta_path:
        sys.meta_path.insert(0, SourceFinder)


def modules() -> list[str]:
    """The modules that run compiled; empty where everything is pure Python."""
    if SourceFinder in sys.meta_path:
        return []
    suffix = EXTENSION_SUFFIXES[0]  # the one that names this Python, as the build does
    parts = [file.relative_to(_HERE.parent).parts for file in _HERE.rglob(f"*{suffix}")]
    return sorted(".".join((*folders, name.removesuffix(suffix))) for *folders, name in parts)
