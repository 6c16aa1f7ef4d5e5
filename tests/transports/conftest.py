"""What holds for the tests of transports."""

import gc
import warnings
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def collect_what_clients_leave_open() -> Iterator[None]:
    """Client libraries forget to close the streams of connections that failed; here, not in a later test."""
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()
