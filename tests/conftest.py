"""What holds for every test of the project."""

import gc
import os
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from support.brokers import Brokers

# A busy machine must not fail a property: no deadline an example, and slow generation is no fault.
settings.register_profile("local", deadline=None, suppress_health_check=[HealthCheck.too_slow])
# In CI the same examples every time, so that a red run can be repeated.
settings.register_profile("ci", settings.get_profile("local"), derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "local")


@pytest.fixture(scope="session")
def brokers() -> Iterator[Brokers]:
    """Real servers, each started when the first test asks for it."""
    with ExitStack() as stack:
        yield Brokers(stack)


def pytest_collection_finish() -> None:
    """What is there before the first test stays: no collection of garbage needs to look through it again."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> object:
    """With `-n 2` each file is run by one process."""
    from support.sharing import ByFile

    return ByFile(config, log)
