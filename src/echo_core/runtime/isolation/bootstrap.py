"""The first code that runs in the process of a plugin; the interpreter is started as `python -I -S` with it.

At this point there is nothing but the standard library, so nothing else is imported before `offer_sdk`. The
only arguments are the plugin's name, for people who look at the list of processes, and a JSON document.
"""

import contextlib
import ctypes
import faulthandler
import importlib
import json
import os
import signal
import sys
from collections.abc import Iterable, Sequence
from importlib.machinery import ModuleSpec, PathFinder
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from importlib.metadata import Distribution, DistributionFinder
    from types import ModuleType

_PR_SET_PDEATHSIG = 1
_ORPHANED = 71
_MEBIBYTE = 1024 * 1024


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when its host ends; where it cannot, a thread watches (`watch`)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it ended before we could ask
        os._exit(_ORPHANED)


def limit(memory_mb: int) -> None:
    """Bounds that the kernel holds, whatever the code does: a last resort behind the host's own watch."""
    import resource  # not on Windows, where this never runs

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if memory_mb:
        # Threads' stacks and reserved arenas count as data, so this is far above what may be resident.
        data = (2 * memory_mb + 256) * _MEBIBYTE
        resource.setrlimit(resource.RLIMIT_DATA, (data, data))
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write("500")  # when memory runs out, this goes before the host


def report_stacks_to(fd: int) -> None:
    """Write the stacks of all threads to `fd` on a fatal error, and on SIGUSR1, even with the GIL held."""
    os.set_blocking(fd, False)  # whoever does not read them must not hold us up
    file = os.fdopen(fd, "w")
    faulthandler.enable(file=file, all_threads=True)
    faulthandler.register(signal.SIGUSR1, file=file, all_threads=True, chain=False)


class SdkFinder:
    """Lets through the SDK's modules and distributions, and nothing else of the folders they are in."""

    def __init__(self, folders: Sequence[str], modules: Sequence[str], distributions: Sequence[str]) -> None:
        self._folders = list(folders)
        self._modules = frozenset(modules)
        self._distributions = frozenset(distributions)

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: "ModuleType | None" = None
    ) -> ModuleSpec | None:
        if path is None and fullname in self._modules:
            return PathFinder.find_spec(fullname, self._folders)
        return None  # what is below a package is found through the package's own path

    def find_distributions(self, context: "DistributionFinder.Context") -> "Iterable[Distribution]":
        from importlib.metadata import DistributionFinder, MetadataPathFinder

        within = DistributionFinder.Context(name=context.name, path=self._folders)
        for found in MetadataPathFinder.find_distributions(within):
            if found.metadata["Name"].lower().replace("_", "-").replace(".", "-") in self._distributions:
                yield found


def main(arguments: Sequence[str]) -> None:
    """Become the process of a plugin; does not return before its end."""
    given: dict[str, Any] = json.loads(arguments[1])
    die_with_parent(given["parent"])
    for fd in (given["socket"], given["page"], given["stacks"]):
        os.set_inheritable(fd, False)  # what the plugin starts must not keep our conversation open
    report_stacks_to(given["stacks"])
    limit(given["memory_mb"])
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    sys.meta_path.append(SdkFinder(**given["sdk"]))
    # Read as data of the interpreter, not as a statement: from here on there is an SDK.
    importlib.import_module("echo_core.runtime.isolation.worker").main(given)


if __name__ == "__main__":
    main(sys.argv[1:])
