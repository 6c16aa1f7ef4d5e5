"""What the figures were measured on: enough to judge them by, and nothing that says whose machine it is."""

import os
import platform
import time
from pathlib import Path
from typing import Any, Final

_GAP_S: Final = 100e-6
"""Longer between two looks at the clock, and something else had the processor."""


def describe() -> dict[str, Any]:
    """Processor, cores, memory, kernel, Python; and how busy the machine was with other things."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "system": f"{platform.system()} {platform.release()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "load_average": round(os.getloadavg()[0], 1),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def resident_bytes() -> int | None:
    """Memory of this process that is in RAM now; None where the system does not say so in /proc."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return None
    return pages * os.sysconf("SC_PAGE_SIZE")


def absences(seconds: float) -> tuple[float, float]:
    """Which share of the time this process is not run, though it never waits; and the longest, in seconds.

    Nobody can be faster than the machine: where this is more than a hundredth, a 99th percentile is its.
    """
    began = before = time.perf_counter()
    away = longest = 0.0
    while before < began + seconds:
        now = time.perf_counter()
        gap = now - before
        if gap > _GAP_S:
            away += gap
            longest = max(longest, gap)
        before = now
    return away / (before - began), longest
