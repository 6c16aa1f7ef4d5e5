"""The account of a plugin's messages on observable instruments: read before an export, free for a message."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final, TypeAlias

from opentelemetry.metrics import CallbackOptions, Meter, Observation

from common_telemetry import attributes as names
from common_telemetry import catalogue, forks
from common_telemetry.account import Account, ReadAccount
from common_telemetry.attributes import AttributeValue, Operation, PluginIdentity
from common_telemetry.catalogue import Metric
from common_telemetry.config import Semconv
from common_telemetry.health import Faults

_OUTCOMES: Final = ("processed", "filtered", "dead_lettered", "shed")
_About: TypeAlias = Mapping[str, AttributeValue]
_Tell: TypeAlias = Callable[[Account], Iterable[tuple[int, _About]]]


class ObservedAccount:
    """Tells the instruments of one plugin what `read` says.

    A collection asks the instruments in the order in which they were made. The first one reads, the others
    tell of the same moment: so what is exported balances under load too.
    """

    def __init__(
        self, meter: Meter, plugin: PluginIdentity, semconv: Semconv, read: ReadAccount, faults: Faults
    ) -> None:
        # A total outlives the states of its plugin, so plugin.status is not on it.
        about: _About = {names.PLUGIN_NAME: plugin.name, names.PLUGIN_VERSION: plugin.version}
        self._plugin = plugin
        self._read = read
        self._faults = faults
        self._account = Account()
        forks.follow(self)
        instruments = [
            (catalogue.ENDED, _outcomes(about)),
            (catalogue.RETURNED, _total("returned", about)),
            (catalogue.IN_HAND, _level("in_hand", about)),
            (catalogue.WAITING, _level("waiting", about)),
        ]
        if semconv != "otel":
            instruments += [
                (catalogue.CONSUMED, _total("consumed", about)),
                (catalogue.PUBLISHED, _total("published", about)),
            ]
        if semconv != "echo":
            consuming, sending = (_in(one, plugin, about) for one in (names.PROCESS, names.PUBLISH))
            instruments += [
                (catalogue.CONSUMED_MESSAGES, _total("consumed", consuming)),
                (catalogue.SENT_MESSAGES, _total("published", sending)),
            ]
        for number, (metric, tell) in enumerate(instruments):
            self._observe(meter, metric, tell, reads=number == 0)

    def _observe(self, meter: Meter, metric: Metric, tell: _Tell, *, reads: bool) -> None:
        def callback(options: CallbackOptions) -> Iterator[Observation]:
            if reads:
                self._look()
            return (Observation(value, about) for value, about in tell(self._account))

        goes_up = metric.kind == "counter"
        make = meter.create_observable_counter if goes_up else meter.create_observable_up_down_counter
        make(metric.name, [callback], metric.unit, metric.description)

    def _look(self) -> None:
        with self._faults.guard(
            "measurement", f"plugin {self._plugin.name!r}: what became of its messages is not measured"
        ):
            self._account = self._read() or self._account

    def before_fork(self) -> None:
        """Part of ForkAware."""

    def after_fork_in_parent(self) -> None:
        """Part of ForkAware."""

    def after_fork_in_child(self) -> None:
        """Part of ForkAware: it is the parent that counts, and tells of it."""
        self._read = Account


def _in(operation: Operation, plugin: PluginIdentity, about: _About) -> _About:
    """`about` in the words of the messaging conventions."""
    return {
        **about,
        names.SYSTEM: names.SYSTEM_NAME,
        names.OPERATION_NAME: operation.name,
        operation.plugin_role: plugin.name,
    }


def _outcomes(about: _About) -> _Tell:
    return lambda account: [
        (count, {**about, names.OUTCOME: outcome})
        for outcome in _OUTCOMES
        if (count := getattr(account, outcome))
    ]


def _total(what: str, about: _About) -> _Tell:
    """Told once there is something to tell."""
    return lambda account: [(count, about)] if (count := getattr(account, what)) else []


def _level(what: str, about: _About) -> _Tell:
    """Told from the first time on that there is something to tell, so that its end is told too."""
    was_told = False

    def tell(account: Account) -> Iterable[tuple[int, _About]]:
        nonlocal was_told
        count = getattr(account, what)
        was_told = was_told or bool(count)
        return [(count, about)] if was_told else []

    return tell
