"""The error tree. Every error says what failed, where, why, and what to do next.

EchoCoreError
├── PluginError                what plugin code raises and gets
│   ├── Invalid                a validator's verdict on a message
│   ├── PublishRefused         the topic is not among the plugin's publications
│   ├── PluginLoadError        the library cannot be turned into a plugin
│   ├── PluginInitError        `init` raised or ran out of time
│   ├── ConfigError            the configuration does not fit the plugin
│   └── StateError             what a source wants to be kept cannot be kept, or read back
├── TopicError                 a topic or pattern is malformed
├── MessageError               a message cannot be encoded or decoded
├── ManifestError              manifest.json has faults (all of them, at once)
├── NameRefused                not usable as a plugin's name
├── UnknownPluginType          none of the six
├── SettingsError              echo-core.toml or the environment is wrong
├── WorkspaceError             no workspace, or one that is not in order
├── NotFound                   no such plugin, version, topic or message
├── LibraryError               a built library is missing, damaged or modified
├── BuildError                 a plugin could not be built
├── NoHost                     no host runs, or none that answers
├── NotAllowed                 the host does not let you
├── BadRequest                 the host was asked in a way that it does not understand
├── HostStopping               the host makes no changes any more, or not yet
├── ChangeRefused              the plugin is not in a state for that
└── TransportError             the transport cannot do what was asked
    ├── TransportClosed        it is closed, or closing
    ├── StoreError             a store of messages cannot be opened, read or written
    ├── MessageTooLarge        larger than the transport takes
    └── QueueFull              a bound is reached and waiting would deadlock
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar


class EchoCoreError(Exception):
    """Something failed that has no kind of its own.

    The root: `code` names the kind for people and scripts, `exit_code` is the command line's.
    """

    code: ClassVar[str] = "E-FAILED"
    exit_code: ClassVar[int] = 1

    def __init__(self, what: str, *, where: str = "", why: str = "", fix: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.why = why
        self.fix = fix

    def __str__(self) -> str:
        parts = [self.what]
        if self.where:
            parts.append(f"at {self.where}")
        if self.why:
            parts.append(f"because {self.why}")
        if self.fix:
            parts.append(f"fix: {self.fix}")
        return "; ".join(parts)


class PluginError(EchoCoreError):
    """A plugin failed.

    The root of the errors of plugins: raise it, or one of your own below it, to fail a message.
    """

    code = "E-PLUGIN"


class Invalid(PluginError):
    """Raised by `Validator.validate`: this message is wrong, and trying again will not mend it."""

    code = "E-INVALID"


class PublishRefused(PluginError):
    """A plugin published to a topic that its manifest does not list among its publications."""

    code = "E-PUBLISH"
    exit_code = 4


class PluginLoadError(PluginError):
    """The library is there, but no plugin comes out of it: import, entry point or type."""

    code = "E-LOAD"


class PluginInitError(PluginError):
    """`init` raised, or did not return before its deadline."""

    code = "E-INIT"


class ConfigError(PluginError):
    """The effective configuration does not satisfy the plugin's `config_schema`."""

    code = "E-CONFIG"
    exit_code = 2


class StateError(PluginError):
    """The state of a source cannot be kept, or what was kept of it cannot be read."""

    code = "E-CHECKPOINT"


class TopicError(EchoCoreError):
    """A topic or a topic pattern is malformed."""

    code = "E-TOPIC"
    exit_code = 2


class MessageError(EchoCoreError):
    """A message cannot be encoded, or bytes cannot be decoded to one."""

    code = "E-MESSAGE"


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing wrong in a document: where in it, why, and how to mend it."""

    path: str
    reason: str
    fix: str

    def __str__(self) -> str:
        return f"{self.path}: {self.reason} (fix: {self.fix})"


class ManifestError(EchoCoreError):
    """`manifest.json` has faults; `faults` holds every one of them."""

    code = "E-MANIFEST"
    exit_code = 2

    def __init__(self, faults: Sequence[Fault], *, where: str) -> None:
        self.faults = tuple(faults)
        count = f"{len(self.faults)} fault" + ("s" if len(self.faults) != 1 else "")
        super().__init__(
            f"the manifest has {count}",
            where=where,
            why="\n".join(f"{fault.path}: {fault.reason}" for fault in self.faults),
            fix="\n".join(f"{fault.path}: {fault.fix}" for fault in self.faults),
        )


class NameRefused(EchoCoreError):
    """Not usable as a plugin's name; `suggestion` is a name that is."""

    code = "E-NAME"
    exit_code = 2

    def __init__(self, name: str, *, why: str, suggestion: str) -> None:
        super().__init__(f"{name!r} cannot be a plugin's name", why=why, fix=f"use {suggestion!r}")
        self.suggestion = suggestion


class UnknownPluginType(EchoCoreError):
    """Not one of the types that a plugin can be made of."""

    code = "E-TYPE"
    exit_code = 2


class SettingsError(EchoCoreError):
    """`echo-core.toml`, or a variable that overrides it, is wrong."""

    code = "E-SETTINGS"
    exit_code = 2


class WorkspaceError(EchoCoreError):
    """There is no workspace here, or it is not in order."""

    code = "E-WORKSPACE"
    exit_code = 2


class NotFound(EchoCoreError):
    """No such plugin, version, topic or message."""

    code = "E-NOT-FOUND"
    exit_code = 3


class LibraryError(EchoCoreError):
    """A built library is missing parts, damaged, or not what its release file says."""

    code = "E-LIBRARY"


class BuildError(EchoCoreError):
    """A plugin could not be built; nothing was written to the libraries."""

    code = "E-BUILD"


class NoHost(EchoCoreError):
    """No host of this workspace answers."""

    code = "E-NO-HOST"
    exit_code = 5


class NotAllowed(EchoCoreError):
    """The host does not let whoever asks do that."""

    code = "E-NOT-ALLOWED"
    exit_code = 4


class BadRequest(EchoCoreError):
    """What was asked of the host is malformed."""

    code = "E-REQUEST"
    exit_code = 2


class HostStopping(EchoCoreError):
    """The host is starting or stopping, and makes no changes to its plugins."""

    code = "E-STOPPING"


class ChangeRefused(EchoCoreError):
    """The plugin is not in a state in which that can be done to it; it is as it was."""

    code = "E-STATE"
    exit_code = 4


class TransportError(EchoCoreError):
    """The transport cannot do what was asked."""

    code = "E-TRANSPORT"
    accepted: int = 0
    """Of several that were published together, how many were accepted before, as far as that is known."""


class TransportClosed(TransportError):
    """The transport, or the subscription, is closed."""


class StoreError(TransportError):
    """A store of messages cannot be opened, read or written: permissions, disk, lock, or damage."""

    may_pass = False
    """Whether it may be mended without us: a full disk, a lock. What is damaged is not."""
    code = "E-STORE"


class QueueFull(TransportError):
    """A queue's hard bound is reached, and waiting for room could deadlock."""

    code = "E-QUEUE-FULL"


class MessageTooLarge(TransportError):
    """The encoded message is larger than the transport takes. Nothing was sent."""

    code = "E-TOO-LARGE"
