"""The counters, gauges and histograms a plugin records by name."""

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from numbers import Real
from typing import Any, Final

from opentelemetry.context import get_current

from common_telemetry.attributes import STANDARD, Attributes, AttributeValue, PluginIdentity, merged
from common_telemetry.catalogue import CATALOGUE, Kind, Metric
from common_telemetry.engine import BoundRecorder, PluginEngine, Recorder
from common_telemetry.errors import describe
from common_telemetry.health import Faults
from common_telemetry.propagation import CURRENT_KEY, Current, current

_RESERVED: Final = {metric.name for metric in CATALOGUE}
_LARGEST: Final = sys.float_info.max
_INT64_MIN: Final = -(1 << 63)
_INT64_MAX: Final = (1 << 63) - 1
_PLAIN: Final = frozenset({str, bool, int, float})
# Where more sets of attributes come than this, they are made of data, and will not come again.
_BOUND_KEPT: Final = 1_000
# No plugin has so many things to measure: beyond, names are made of data.
_NAMES_KEPT: Final = 1_000
# A series is kept as long as the process lives, and there are up to 2,000 of them.
_LONGEST: Final = 4_096


@dataclass(slots=True)
class _Instrument:
    """One name. `bound` has the recorders of attributes seen before, while the plugin has `identity`."""

    kind: Kind
    record: Recorder
    bind: Callable[[Attributes], BoundRecorder] | None
    lowest: float
    identity: Attributes = field(default_factory=dict)
    bound: dict[Any, BoundRecorder] = field(default_factory=dict)


class Instruments:
    """Instruments of one plugin, made at first use and kept by name. What is wrong becomes a fault."""

    def __init__(self, engine: PluginEngine, plugin: PluginIdentity, faults: Faults) -> None:
        self._engine = engine
        self._plugin = plugin
        self._faults = faults
        self._known: dict[str, _Instrument] = {}
        self._by_lower_case: dict[str, _Instrument] = {}

    def record(self, kind: Kind, name: str, value: Any, attributes: Attributes | None) -> None:
        """Record `value` on the instrument `name`, with the standard attributes added."""
        try:
            known = self._known.get(name)
            # The short way, for what has been seen before. No number is neither below nor above a bound; the
            # long way says what is wrong with it, and with everything else.
            if (
                known is not None
                and known.kind == kind
                and (value.__class__ is int or value.__class__ is float)
                and known.lowest <= value <= _LARGEST
                and self._record_again(known, value, attributes)
            ):
                return
            self._record(kind, name, value, attributes)
        except Exception as error:  # noqa: BLE001 - nothing of what a plugin gives need be what it should
            self._report("measurement", f"{kind} {name!r} cannot be recorded: {describe(error)}")

    def _record_again(self, known: _Instrument, value: float, own: Attributes | None) -> bool:
        """Record with attributes that were seen before; whether they were, or are from now on."""
        if known.bind is None:
            return False
        if known.identity is not self._plugin.attributes:  # which are replaced when the status moves on
            known.bound, known.identity = {}, self._plugin.attributes
        here = get_current()
        working = here.get(CURRENT_KEY)
        if not isinstance(working, Current):
            working = None
        topic = working.topic if working is not None else ""
        # 1, 1.0 and True are equal, but different attributes.
        key = (topic, *own.items(), *map(type, own.values())) if own else topic
        try:
            record = known.bound.get(key)
        except TypeError:  # a list for a value
            return False
        if record is None:
            if len(known.bound) >= _BOUND_KEPT or (own and not _can_come_again(own)):
                return False
            record = known.bound[key] = known.bind(self._attributes(own, working))
        record(value, working.message_id if working is not None else "", here)
        return True

    def _record(self, kind: Kind, name: str, value: Any, own: Attributes | None) -> None:
        known = self._instrument(kind, name)
        number = self._number(kind, name, value)
        if known is not None and number is not None:
            known.record(number, self._attributes(own, current()), None)

    def _attributes(self, own: Attributes | None, working: Current | None) -> dict[str, AttributeValue]:
        standard = self._plugin.attributes
        if working is not None:
            standard = {**standard, **working.message_attributes()}
        return merged(standard, own and self._cut(own), self._faults)

    def _cut(self, own: Attributes) -> Attributes:
        """`own` without texts longer than any that tells series apart."""
        if not any(map(_is_too_long, own.values())):
            return own
        self._report(
            "attribute", f"texts on measurements are cut to {_LONGEST} characters: a series is kept for good."
        )
        return {
            key: value[:_LONGEST] if isinstance(value, str) and _is_too_long(value) else value
            for key, value in own.items()
        }

    def _instrument(self, kind: Kind, name: str) -> _Instrument | None:
        known = self._known.get(name)
        if known is None:
            known = self._add(kind, name)
        if known is None or known.kind == kind:
            return known
        self._report(
            "instrument conflict",
            f"{name!r} is already a {known.kind}; as a {kind} nothing is recorded on it. Use another name.",
        )
        return None

    def _add(self, kind: Kind, name: str) -> _Instrument | None:
        if name in _RESERVED:
            self._report(
                "instrument conflict", f"{name!r} is measured by telemetry itself. Use another name."
            )
            return None
        if len(self._known) >= _NAMES_KEPT:
            self._report(
                "too many instruments",
                f"it has {_NAMES_KEPT} already; nothing is recorded on more. Names must not be made of data: "
                "use attributes.",
            )
            return None
        # OpenTelemetry holds names that differ only in case for one instrument.
        known = self._by_lower_case.get(name.lower())
        if known is None:
            known = self._by_lower_case[name.lower()] = self._make(Metric(name, kind))
        self._known[name] = known
        return known

    def _make(self, metric: Metric) -> _Instrument:
        binder = self._engine.binder
        return _Instrument(
            metric.kind,
            self._engine.recorder(metric),
            None if binder is None else binder(metric),
            lowest=-math.inf if metric.kind == "gauge" else 0,
        )

    def _number(self, kind: Kind, name: str, value: Any) -> float | None:
        if isinstance(value, bool) or not isinstance(value, Real) or not _is_finite(value):
            self._report("value", f"{kind} {name!r} got {value!r}; give a finite number.")
            return None
        if kind != "gauge" and value < 0:
            why = "only goes up" if kind == "counter" else "has no place for what is below 0"
            self._report("value", f"{kind} {name!r} got {value!r}, but {why}; use a gauge.")
            return None
        # Of 64 bits, or a float: OTLP has no others, and the SDK loses a whole request over one.
        if isinstance(value, int) and _INT64_MIN <= value <= _INT64_MAX:
            return value
        return float(value)

    def _report(self, reason: str, message: str) -> None:
        self._faults.report(reason, f"plugin {self._plugin.name!r}: {message}")


def _can_come_again(own: Attributes) -> bool:
    """Whether these can be known again by their items and types, and need no word each time they come."""
    return (
        STANDARD.isdisjoint(own)
        and _PLAIN.issuperset(map(type, own.values()))
        and all(key.__class__ is str for key in own)
        and not any(map(_is_too_long, own.values()))
    )


def _is_too_long(value: object) -> bool:
    return isinstance(value, str) and len(value) > _LONGEST


def _is_finite(value: Real) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # an int beyond every float
        return False
