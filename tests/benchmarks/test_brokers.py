"""The page about brokers says what was measured, and hosts that share the load leave nothing out."""

import json
import subprocess
import sys

import pytest
from benchmarks.brokers import of_scaling, page
from benchmarks.measure import Measured
from benchmarks.peers import ON_SERVERS

from benchmarks import ROOT, servers
from support.brokers import Brokers

RUNS = {hosts: [{"rate": 100.0 * hosts, "cpu_us": 50.0}] * 2 for hosts in (1, 2, 4)}


def test_the_page_has_the_hosts_and_what_could_not_be_measured() -> None:
    measured = [Measured(one, unavailable="no server") for one in ON_SERVERS]
    text = page(measured, of_scaling(RUNS), RUNS)
    assert text.count("no figures: no server") == len(ON_SERVERS)
    assert "rate of 4 hosts over NATS JetStream, against one" in text
    assert "| 4     | 400        |" in text


def test_two_hosts_handle_all_messages(brokers: Brokers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(servers.variable("nats"), f"nats://127.0.0.1:{brokers.server('nats').port}")
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.programs.hosts", "2", "--messages=300", "--engine=off"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
        timeout=50,
    )
    found = json.loads(done.stdout)
    assert (found["hosts"], found["again"]) == (2, 0)
    assert found["rate"] > 0
    assert found["cpu_us"] > 0
