"""`echo-core.toml`: the settings of the host."""

import math
import tomllib
from typing import Annotated, Any, Final, Literal, TypeAlias

import msgspec

from echo_core.errors import SettingsError, TopicError
from echo_core.topics import TopicPattern
from echo_core.transports.base import Bounds
from echo_core.workspace import Workspace

Tier: TypeAlias = Literal["in_process", "process"]
Memory: TypeAlias = Annotated[int, msgspec.Meta(ge=0)]
_LEAST_MB: Final = 64
Processes: TypeAlias = Annotated[int, msgspec.Meta(ge=0)]
Seconds: TypeAlias = Annotated[float, msgspec.Meta(gt=0)]


class HostSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The `[host]` table. Durations are seconds, above 0."""

    transport: str = "memory://"
    local: tuple[str, ...] = ()
    """Patterns of topics that stay in the memory of this process, whatever the transport."""
    health_interval_s: float = 10.0
    """Time between two health checks of a plugin."""
    shutdown_timeout_s: float = 20.0
    """Deadline of a stop: three quarters of it to finish what is under way, the rest to be firm."""
    max_in_flight_messages: int = Bounds().messages
    """Messages that may wait or be handled at a time, over all plugins; sources wait before it is reached."""
    max_in_flight_bytes: int = Bounds().bytes
    """The same, in bytes: the messages' data as MessagePack and 1,000 for each, by samples."""
    drain_timeout_s: float = 10.0
    """How long a plugin that is switched off, paused or replaced may take to end what it has."""
    control_port: int = 0
    """Where the control API answers on loopback; 0: on any free port."""
    optional_plugins: tuple[str, ...] = ()
    """Plugins without which the host is ready (`/health/ready`) all the same."""
    blocked_after_s: float = 2.0
    """How long a plugin may hold the event loop before it is named, with its stack."""
    stalled_after_s: float = 10.0
    """How long a plugin may get on with nothing, beyond its deadline for a message, before it is STALLED."""

    def __post_init__(self) -> None:
        for name in (
            "health_interval_s",
            "shutdown_timeout_s",
            "drain_timeout_s",
            "blocked_after_s",
            "stalled_after_s",
        ):
            seconds = getattr(self, name)
            if not (seconds > 0 and math.isfinite(seconds)):
                raise ValueError(f"Expected a number of seconds above 0, got {seconds} - at `{name}`")
        for name in ("max_in_flight_messages", "max_in_flight_bytes"):
            if getattr(self, name) < 1:
                raise ValueError(f"Expected a number above 0, got {getattr(self, name)} - at `{name}`")
        for pattern in self.local:
            try:
                TopicPattern(pattern)
            except TopicError as error:
                raise ValueError(f"{error.what}: {error.why} - at `local`") from None

    @property
    def bounds(self) -> Bounds:
        """What the transport must keep within."""
        return Bounds(messages=self.max_in_flight_messages, bytes=self.max_in_flight_bytes)


class PluginIsolation(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An `[isolation.plugins.<name>]` table: the same for one plugin; what is left out is as for all."""

    tier: Tier = "in_process"
    memory_mb: Memory | None = None
    block_s: Seconds | None = None
    processes: Processes | None = None
    spare: bool | None = None
    environment: tuple[str, ...] = ()
    """Variables of the host's environment that the plugin sees."""


class IsolationSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The `[isolation]` table: how far plugins are kept apart, unless a manifest asks for more."""

    tier: Tier = "in_process"
    memory_mb: Memory = 1_024
    """Resident memory that a plugin's own process may hold, in MiB; 0: no limit."""
    block_s: Seconds = 10.0
    """How long a handler may block the event loop of the plugin's own process before that is killed."""
    processes: Processes = 256
    """How many processes a plugin's own process may have started and not ended before it is killed."""
    spare: bool = True
    """Whether another process is kept ready to take the place of one that dies."""
    plugins: dict[str, PluginIsolation] = {}

    def __post_init__(self) -> None:
        asked = {"memory_mb": self.memory_mb}
        asked |= {f"plugins.{name}.memory_mb": own.memory_mb or 0 for name, own in self.plugins.items()}
        for path, megabytes in asked.items():
            if 0 < megabytes < _LEAST_MB:
                raise ValueError(
                    f"{megabytes} MiB is less than a process takes for itself; "
                    f"expected {_LEAST_MB} or more, or 0 for no limit - at `{path}`"
                )


class HistorySettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The `[history]` table: what is recorded of messages, and for how long."""

    enabled: bool = True
    path: str = ""
    """The file, from the workspace's root; empty: core/state/message_history.sqlite."""
    retain_s: Seconds = 604_800.0
    """How long a record is kept, in seconds."""
    max_size_mb: Annotated[int, msgspec.Meta(ge=1)] = 256
    """How large all of it may become, in MiB; the oldest goes first."""
    payloads: Literal["off", "failures", "sample", "all"] = "off"
    """Which messages are kept whole; `sample` keeps failures too."""
    payload_sample: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.01
    """The part of all first messages that `sample` keeps, each with all that is made from it."""
    max_payload_bytes: Annotated[int, msgspec.Meta(ge=1)] = 65_536
    """A message that is larger is not kept whole."""
    mask: tuple[Annotated[str, msgspec.Meta(min_length=1)], ...] = ()
    """Fields that are kept nowhere; see `message_history.masking.Masks`."""


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All of `echo-core.toml`."""

    host: HostSettings = HostSettings()
    isolation: IsolationSettings = IsolationSettings()
    history: HistorySettings = HistorySettings()
    telemetry: dict[str, Any] = {}
    """Handed to `common_telemetry.TelemetryConfig.from_mapping`, which checks it."""
    plugins: dict[str, dict[str, Any]] = {}
    """Overrides of the manifests' `config`, by plugin name."""


def load_settings(workspace: Workspace) -> Settings:
    """The workspace's settings; raises `SettingsError` naming the file, the place and the fault."""
    where = str(workspace.settings_file)
    try:
        document = tomllib.loads(workspace.settings_file.read_text(encoding="utf-8"))
        return msgspec.convert(document, Settings)
    except OSError as error:
        raise SettingsError(
            "the settings cannot be read", where=where, why=error.strerror or str(error)
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError("the settings are not TOML", where=where, why=str(error)) from error
    except msgspec.ValidationError as error:
        raise SettingsError(
            "the settings are wrong",
            where=where,
            why=str(error),
            fix="see the comments that `echo-core init` writes",
        ) from error
