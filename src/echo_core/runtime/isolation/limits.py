"""What an operator allows the processes of plugins, and which tier a plugin runs in."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from echo_core.manifest import ISOLATIONS, Manifest
from echo_core.runtime.settings import IsolationSettings, PluginIsolation

IN_PROCESS: Final = ISOLATIONS[0]
_PASSED_ON: Final = frozenset(
    {
        *("PATH", "HOME", "USER", "LOGNAME", "LANG", "LANGUAGE", "TZ", "TMPDIR"),
        *("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE"),
        *("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"),
    }
)
_SENT_SOONER: Final = {"OTEL_BSP_SCHEDULE_DELAY": "1000", "OTEL_METRIC_EXPORT_INTERVAL": "10000"}
"""Milliseconds. What a process has not sent when it dies is lost, so it sends more often than is usual."""
_PREFIXES_PASSED_ON: Final = ("LC_", "OTEL_")


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What the process of one plugin may do."""

    memory_mb: int = 1_024
    """Resident memory at which it is killed, in MiB; 0: no limit. At 80 % it is replaced in good order."""
    block_s: float = 10.0
    """How long one of its handlers may block its event loop before it is killed."""
    processes: int = 256
    """How many processes it may have started and not ended before it is killed with all of them."""
    spare: bool = True
    """Whether another process is kept ready to take its place."""
    environment: tuple[str, ...] = ()
    """Variables of the host that it sees, beside the few that every program needs."""


def tier_of(manifest: Manifest, settings: IsolationSettings) -> str:
    """The stricter of what the manifest asks for and what the operator demands."""
    demanded = settings.plugins.get(manifest.name)
    tiers = (manifest.isolation, settings.tier, demanded.tier if demanded else IN_PROCESS)
    return max(tiers, key=ISOLATIONS.index)


def limits_of(name: str, settings: IsolationSettings) -> Limits:
    """What the operator allows the plugin of this name."""
    own = settings.plugins.get(name) or PluginIsolation()
    return Limits(
        memory_mb=settings.memory_mb if own.memory_mb is None else own.memory_mb,
        block_s=settings.block_s if own.block_s is None else own.block_s,
        processes=settings.processes if own.processes is None else own.processes,
        spare=settings.spare if own.spare is None else own.spare,
        environment=own.environment,
    )


def scrubbed(environ: Mapping[str, str], limits: Limits) -> dict[str, str]:
    """The environment of a process: what every program needs, OTEL_*, and what the operator named."""
    return _SENT_SOONER | {
        name: value
        for name, value in environ.items()
        if name.upper() in _PASSED_ON or name.startswith(_PREFIXES_PASSED_ON) or name in limits.environment
    }
