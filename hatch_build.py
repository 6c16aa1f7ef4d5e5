"""Puts compiled modules into the wheel, where Cython and a C compiler are at hand.

A module is compiled if a `.pxd` file lies beside it, which says how C holds its classes. Its `.py` file is
the one source, and goes into the wheel as well. `ECHO_CORE_COMPILED` says what is wanted: `auto` (the
default: compiled if possible), `require` (fail if it is not), `no`. An editable install is never compiled: a
compiled module would win over the edited file beside it.
"""

import os
import platform
import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

_FLAGS = ["-O2", "-g0", "-fno-strict-aliasing", "-Wno-unreachable-code"]


class CompiledModules(BuildHookInterface[Any]):
    """The build hook that pyproject.toml names."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Part of BuildHookInterface: compile, and add what came of it to the wheel."""
        wanted = os.environ.get("ECHO_CORE_COMPILED", "auto")
        if wanted not in ("auto", "require", "no"):
            raise ValueError(f"ECHO_CORE_COMPILED is {wanted!r}, and may be auto, require or no")
        if wanted == "no" or version == "editable":
            return
        try:
            compiled = compile_modules(Path(self.root))
        except Exception as error:
            if wanted == "require":
                raise
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            self.app.display_warning(f"echo-core is built without compiled modules: {reason}")
            return
        build_data["pure_python"] = False
        build_data["infer_tag"] = True
        build_data["force_include"].update({str(file): place for place, file in compiled.items()})


def modules(root: Path) -> list[Path]:
    """What is compiled: their `.py` files, or the `.pyx` files beside them."""
    found = [pxd.with_suffix(".pyx") for pxd in sorted((root / "src").rglob("*.pxd"))]
    return [path if path.exists() else path.with_suffix(".py") for path in found]


def compile_modules(root: Path) -> dict[str, Path]:
    """The extension modules, by their place in the wheel. What is up to date is not made again."""
    from Cython.Build import cythonize  # neither is there in every environment
    from setuptools import Distribution, Extension
    from setuptools.command.build_ext import build_ext

    source, cores = root / "src", os.cpu_count() or 1
    build = root / "build" / f"compiled-{sys.implementation.cache_tag}-{platform.machine()}"
    extensions = [
        Extension(
            ".".join(path.relative_to(source).with_suffix("").parts),
            [str(path.relative_to(root))],
            extra_compile_args=[] if os.name == "nt" else _FLAGS,
        )
        for path in modules(root)
    ]
    before = Path.cwd()
    os.chdir(root)  # relative names, so that no path of this machine gets into the wheel
    try:
        made = cythonize(
            extensions,
            build_dir=str(build / "c"),
            include_path=["src"],
            nthreads=cores if len(extensions) > 1 else 0,
            quiet=True,
            compiler_directives={
                "language_level": "3",
                "annotation_typing": False,  # types for C are said in the .pxd files alone
                "binding": True,
                "embedsignature": False,
            },
        )
        command = build_ext(Distribution({"name": "echo-core", "ext_modules": made}))
        command.build_lib, command.build_temp = str(build / "lib"), str(build / "temp")
        command.parallel = cores
        command.ensure_finalized()
        command.run()
        outputs = [Path(output) for output in command.get_outputs()]
    finally:
        os.chdir(before)
    return {str(output.relative_to(build / "lib")): root / output for output in outputs}
