"""The platform packages: what the host and every plugin share, because values of theirs cross between them.

A library never carries them; a plugin always gets the host's.
"""

from functools import cache
from importlib import metadata
from typing import Final

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from echo_core._version import __version__

PLATFORM_MODULES: Final = frozenset({"echo_core", "common_telemetry", "msgspec", "opentelemetry"})
PRIVATE_PARTS: Final = ("opentelemetry.instrumentation", "opentelemetry.util.http")
"""Below a platform package, and yet the plugin's: what patches the libraries that the plugin carries."""
_PRIVATE: Final = ("opentelemetry-instrumentation", "opentelemetry-util-http")
_OWN: Final = frozenset({"echo-core", "common-telemetry"})


def is_platform(distribution: str) -> bool:
    """Whether the distribution of this name is a platform package."""
    name = canonicalize_name(distribution)
    return (
        name in _OWN
        or name == "msgspec"
        or (name.startswith("opentelemetry-") and not name.startswith(_PRIVATE))
    )


@cache
def platform_versions() -> dict[str, str]:
    """Every platform package that is installed here, with its version."""
    found = {
        canonicalize_name(installed.name): installed.version
        for installed in metadata.distributions()
        if is_platform(installed.name)
    }
    return found | dict.fromkeys(_OWN, __version__)


def contradiction(requirement: Requirement) -> str:
    """Why this host cannot satisfy a requirement of a platform package; empty if it can."""
    if not is_platform(requirement.name) or (requirement.marker and not requirement.marker.evaluate()):
        return ""
    version = platform_versions().get(canonicalize_name(requirement.name))
    if version is None:
        return f"{requirement.name} is not installed beside Echo Core"
    if not requirement.specifier.contains(version, prereleases=True):
        return f"{requirement.name}{requirement.specifier} is wanted, and the host has {version}"
    return ""
