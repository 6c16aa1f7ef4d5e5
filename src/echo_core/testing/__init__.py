"""The test kit: for authors of plugins and of transports. No part of it needs pytest."""

from echo_core.testing._checks import ContractBroken
from echo_core.testing.asynchronous import async_test
from echo_core.testing.clock import ManualClock
from echo_core.testing.harness import PluginHarness
from echo_core.testing.plugin_contract import check_plugin_contract
from echo_core.testing.transport import Published, RecordingTransport

__all__ = [
    "ContractBroken",
    "ManualClock",
    "PluginHarness",
    "Published",
    "RecordingTransport",
    "async_test",
    "check_plugin_contract",
]
