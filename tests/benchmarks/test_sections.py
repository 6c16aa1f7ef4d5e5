"""Sections of `make bench`: what other programs bring to the table."""

import inspect

import pytest
from benchmarks.demands import Row
from benchmarks.sections import SECTIONS, Found

from benchmarks import durable, report, run, sections


@pytest.mark.parametrize("name", SECTIONS)
def test_each_section_can_be_loaded_and_called(name: str) -> None:
    assert list(inspect.signature(sections.load(name).section).parameters) == ["quick", "say"]
    assert name not in run.PARTS


def test_what_a_section_found_stands_in_the_table_on_the_page_and_in_the_data(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = Found(
        rows=[Row(what="a figure", demanded="-", found="1")], page="## A section\n", data={"one": 1}
    )
    monkeypatch.setattr(durable, "section", lambda quick, say: found)
    session = run.Session(run.QUICK, None)  # type: ignore[arg-type]
    session.run("durable")
    assert (session.rows, session.data) == (found.rows, {"durable": {"one": 1}})
    results = {
        "command": "make bench",
        "date": "2026-01-01",
        "version": "1",
        "rounds": 1,
        "machine": dict.fromkeys(
            ("processor", "cores", "memory_gib", "system", "python", "load_average", "load_average_after"),
            "-",
        ),
    }
    page = report.document(results, [], session.rows, {}, session.pages)
    assert "a figure" in page
    assert page.endswith("\n\n## A section\n")
