"""The counters, gauges and histograms a plugin records by name."""

import math
from numbers import Real
from typing import Any

from common_telemetry.attributes import Attributes, AttributeValue, PluginIdentity, merged
from common_telemetry.catalogue import CATALOGUE, Kind, Metric
from common_telemetry.engine import PluginEngine, Recorder
from common_telemetry.health import Faults
from common_telemetry.propagation import current

_RESERVED = {metric.name for metric in CATALOGUE}


class Instruments:
    """Instruments of one plugin, made at first use and kept by name. What is wrong becomes a fault."""

    def __init__(self, engine: PluginEngine, plugin: PluginIdentity, faults: Faults) -> None:
        self._engine = engine
        self._plugin = plugin
        self._faults = faults
        self._known: dict[str, tuple[Kind, Recorder]] = {}

    def record(self, kind: Kind, name: str, value: Any, attributes: Attributes | None) -> None:
        """Record `value` on the instrument `name`, with the standard attributes added."""
        if not self._engine.recording:
            return
        what = f"plugin {self._plugin.name!r}: {kind} {name!r} cannot be recorded"
        with self._faults.guard("measurement", what):
            recorder = self._recorder(kind, name)
            number = self._number(kind, name, value)
            if recorder is not None and number is not None:
                recorder(number, self._attributes(attributes), None)

    def _attributes(self, own: Attributes | None) -> dict[str, AttributeValue]:
        standard = self._plugin.attributes
        working = current()
        if working is not None:
            standard = {**standard, **working.message_attributes()}
        return merged(standard, own, self._faults)

    def _recorder(self, kind: Kind, name: str) -> Recorder | None:
        known = self._known.get(name)
        if known is None:
            known = self._add(kind, name)
        if known is None or known[0] == kind:
            return known and known[1]
        self._report(
            "instrument conflict",
            f"{name!r} is already a {known[0]}, so nothing is recorded on it as a {kind}. Use another name.",
        )
        return None

    def _add(self, kind: Kind, name: str) -> tuple[Kind, Recorder] | None:
        if name in _RESERVED:
            self._report(
                "instrument conflict", f"{name!r} is measured by telemetry itself. Use another name."
            )
            return None
        # OpenTelemetry holds names that differ only in case for one instrument.
        same = next((known for key, known in self._known.items() if key.lower() == name.lower()), None)
        known = self._known[name] = same or (kind, self._engine.recorder(Metric(name, kind)))
        return known

    def _number(self, kind: Kind, name: str, value: Any) -> float | None:
        if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
            self._report("value", f"{kind} {name!r} got {value!r}; give a finite number.")
            return None
        if kind == "counter" and value < 0:
            self._report(
                "value", f"counter {name!r} got {value!r}, but only goes up; use a gauge for what goes down."
            )
            return None
        # numpy and the like: an exact int or float is what the exporters can encode
        return value if isinstance(value, int | float) else float(value)

    def _report(self, reason: str, message: str) -> None:
        self._faults.report(reason, f"plugin {self._plugin.name!r}: {message}")
