import sys

import pytest

from echo_core.errors import SettingsError
from echo_core.transports.memory import MemoryTransport
from echo_core.transports.urls import transport_for, without_secrets
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


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("memory://", "memory://"),
        ("sqlite://data/m.sqlite?retain=7d", "sqlite://data/m.sqlite"),
        ("nats+tls://user:pass@a:1,b:2/x?token=t", "nats+tls://a:1,b:2/x"),
        ("redis://:pa/s?s@a:1", "redis://a:1"),
    ],
)
def test_a_url_is_shown_without_what_is_secret_in_it(url: str, shown: str) -> None:
    assert without_secrets(url) == shown
