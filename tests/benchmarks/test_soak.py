"""The soak: a short run of it, and that it would see what it is there to see."""

import asyncio
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from benchmarks.soak.load import HEARS, Guest, Visits, is_kept, is_valid, never_works
from benchmarks.soak.verdict import Check, Counted, of_accounts, of_remains, of_samples
from benchmarks.soak.watch import Holdings, Sample

from benchmarks import ROOT
from echo_core import BaseMessage
from echo_core.runtime.states import PluginState
from echo_core.runtime.statistics import PluginSnapshot

QUIET = Holdings(tasks=10, threads=5, descriptors=12)
SENT = range(1, 1_011)


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_after_a_few_seconds_of_faults_everything_is_accounted_for_and_nothing_is_left(
    tmp_path: Path,
) -> None:
    command = [sys.executable, "-m", "benchmarks.soak", "--minutes=0.05", f"--folder={tmp_path}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "dependency fails: " in done.stdout
    assert (tmp_path / "results.json").stat().st_size > 0


def snapshot(name: str, *, received: int, published: int, filtered: int = 0, dead: int = 0) -> PluginSnapshot:
    return PluginSnapshot(
        name=name,
        version="1.0.0",
        build_type="",
        plugin_type="",
        state=PluginState.STOPPED,
        reason="",
        received=received,
        processed=received - filtered - dead,
        filtered=filtered,
        dead_lettered=dead,
        published=published,
    )


def counted() -> Counted:
    """A run in which all went as it should."""
    valid, kept = sum(map(is_valid, SENT)), sum(map(is_kept, SENT))
    hopeless = sum(never_works(number) for number in SENT if is_kept(number))
    plugins = {name: snapshot(name, received=kept, published=0) for name in HEARS}
    plugins |= {
        "segments": snapshot("segments", received=0, published=len(SENT)),
        "checker": snapshot("checker", received=len(SENT), published=valid, dead=len(SENT) - valid),
        "chooser": snapshot("chooser", received=valid, published=kept, filtered=valid - kept),
        "speakers": snapshot("speakers", received=kept, published=kept - hopeless, dead=hopeless),
        "batcher": snapshot("batcher", received=kept, published=kept),
        "shedding": replace(snapshot("shedding", received=kept - 100, published=0), shed={"queue_full": 100}),
    }
    plugins |= {
        name: snapshot(name, received=kept - hopeless, published=0)
        for name in ("ledger", "flaky", "blocking")
    }
    return Counted(
        plugins=plugins,
        dead_letters={"checker": len(SENT) - valid, "speakers": hopeless},
        told=len(SENT),
        unfinished=0,
        out_of_order=0,
        left_out=0,
    )


def broken(checks: Sequence[Check]) -> list[str]:
    return [check.what.partition(":")[0] for check in checks if check.holds is False]


def test_a_run_in_which_all_went_well_holds() -> None:
    assert broken(of_accounts(counted())) == []


@pytest.mark.parametrize("name", HEARS)
def test_a_message_that_a_plugin_did_not_get_is_missed(name: str) -> None:
    good = counted()
    plugin = good.plugins[name]
    lost = replace(plugin, received=plugin.received - 1, processed=plugin.processed - 1)
    assert name in broken(of_accounts(replace(good, plugins={**good.plugins, name: lost})))


def test_a_message_that_was_received_and_did_not_end_is_missed() -> None:
    good = counted()
    lost = replace(good.plugins["slow"], processed=good.plugins["slow"].processed - 1)
    assert "slow" in broken(of_accounts(replace(good, plugins={**good.plugins, "slow": lost})))


def test_a_lost_dead_letter_a_source_not_told_and_disorder_are_seen() -> None:
    good = counted()
    assert broken(of_accounts(replace(good, dead_letters={})))
    assert broken(of_accounts(replace(good, told=good.told - 1)))
    assert broken(of_accounts(replace(good, unfinished=1)))
    assert broken(of_accounts(replace(good, out_of_order=1)))
    assert broken(of_accounts(replace(good, left_out=1)))


def sample(second: int, *, mib: float = 50.0, ms: float = 1.0, holdings: Holdings = QUIET) -> Sample:
    return Sample(float(second), int(mib * 2**20), holdings, 100, ms, ms * 3)


def test_what_stays_as_it_is_holds() -> None:
    assert broken(of_samples([sample(second) for second in range(100)])) == []


@pytest.mark.parametrize(
    ("what", "late"),
    [
        ("memory", {"mib": 53.0}),
        ("latency", {"ms": 4.5}),
        ("tasks", {"holdings": replace(QUIET, tasks=13)}),
        ("threads", {"holdings": replace(QUIET, threads=8)}),
        ("file descriptors", {"holdings": replace(QUIET, descriptors=15)}),
    ],
)
def test_what_grew_by_the_last_quarter_does_not(what: str, late: dict[str, float]) -> None:
    samples = [sample(second, **(late if second >= 60 else {})) for second in range(100)]  # type: ignore[arg-type]
    assert broken(of_samples(samples)) == [what]


def test_a_short_run_says_nothing_about_growth() -> None:
    samples = [sample(second, mib=50 + second) for second in range(20)]
    assert all(check.holds is None for check in of_samples(samples))


def test_what_is_left_of_a_stopped_host_is_seen() -> None:
    assert broken(of_remains(QUIET, QUIET)) == []
    assert broken(of_remains(QUIET, replace(QUIET, tasks=11)))
    assert broken(of_remains(QUIET, replace(QUIET, descriptors=13)))


def test_a_guest_that_was_left_out_is_seen_and_one_that_was_not_there_is_none() -> None:
    visits = Visits()
    for numbers in ([1, 2, 3], [90, 100, 102], [200, 200]):
        visits.begin()
        guest = Guest(visits)
        for number in numbers:
            asyncio.run(guest.write(BaseMessage(source="segments", data={"number": number})))
    assert visits.left_out == 9  # 91 to 99; 101 is refused before
    assert visits.repeated == 1
