"""The test kit: for authors of plugins and of transports. No part of it needs pytest."""

from echo_core.testing.asynchronous import async_test
from echo_core.testing.clock import ManualClock
from echo_core.testing.harness import PluginHarness
from echo_core.testing.transport import Published, RecordingTransport

__all__ = ["ManualClock", "PluginHarness", "Published", "RecordingTransport", "async_test"]
