import sys

import pytest

from echo_core.errors import SettingsError
from echo_core.transports.memory import MemoryTransport
from echo_core.transports.urls import transport_for
from support.brokers import SCHEMES


def test_memory_is_a_transport() -> None:
    assert isinstance(transport_for("memory://"), MemoryTransport)


@pytest.mark.parametrize("url", ["carrier-pigeon://me:hidden@loft", "me:hidden@loft", ""])
def test_an_unknown_scheme_is_refused_and_the_known_ones_are_named(url: str) -> None:
    with pytest.raises(SettingsError, match=r"memory://, .*nats://") as caught:
        transport_for(url)
    assert "hidden" not in str(caught.value)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_missing_extra_is_named(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module = f"echo_core.transports.{scheme}"
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(SettingsError, match=rf"pip install 'echo-core\[{scheme}\]'"):
        transport_for(f"{scheme}://")
