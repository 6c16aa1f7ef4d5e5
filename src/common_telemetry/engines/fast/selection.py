"""Whether the fast engine can carry a signal, or something needs the objects of OpenTelemetry's own SDK."""

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

from common_telemetry.config import TelemetryConfig
from common_telemetry.environment import PROTOCOL_OF_ENTRY_POINT, SIGNALS, ExporterChoice
from common_telemetry.health import Signal
from common_telemetry.senders.settings import has_credential_provider

if TYPE_CHECKING:
    from opentelemetry.sdk.metrics.view import View


def reasons_for_official(
    config: TelemetryConfig,
    choices: Sequence[ExporterChoice],
    adopted: Collection[Signal],
    views: "Sequence[View]",
    environ: Mapping[str, str],
) -> dict[Signal, str]:
    """Why a signal must go through the SDK; the fast engine carries the signals that are not named."""
    found: dict[Signal, str] = {}
    for signal in SIGNALS:
        reason = _reason(signal, [choice for choice in choices if choice.signal == signal], environ)
        if signal in adopted:
            reason = "the application has made the provider"
        elif signal == "metrics" and views:
            reason = "views are the SDK's"
        elif signal == "metrics" and config.message_id_on_metrics == "attribute":
            reason = "message_id_on_metrics is 'attribute'"
        if reason:
            found[signal] = reason
    return found


def _reason(signal: Signal, choices: Sequence[ExporterChoice], environ: Mapping[str, str]) -> str:
    foreign = [choice.name for choice in choices if choice.entry_point not in PROTOCOL_OF_ENTRY_POINT]
    if foreign:
        return f"exporter {foreign[0]!r} takes nothing else"
    if len(choices) > 1:
        return "there is more than one exporter"
    if choices and has_credential_provider(environ):
        return "its exporter's credentials come from a plugin"
    return ""
