"""What holds for the tests of transports."""

import gc
import warnings
from collections.abc import Iterator

import pytest

from echo_core.transports import nats


@pytest.fixture(autouse=True)
def collect_what_clients_leave_open() -> Iterator[None]:
    """Client libraries forget to close the streams of connections that failed; here, not in a later test."""
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


@pytest.fixture
def nats_gives_up_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """For what is refused however long it is tried."""
    monkeypatch.setattr(nats, "_CONNECT_S", 2.0)
