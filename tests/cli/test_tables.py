"""Tables that fit where they are shown."""

import io

import pytest
from rich.console import Console

from echo_core.cli.tables import Column, FittingTable, numbers


def shown(table: FittingTable, width: int) -> list[list[str]]:
    stream = io.StringIO()
    Console(file=stream, width=width, color_system=None).print(table)
    return [line.split() for line in stream.getvalue().splitlines()]


@pytest.mark.parametrize(
    ("width", "headings"),
    [
        (80, ["NAME", "BUILD", "COUNT", "RATE"]),
        (26, ["NAME", "COUNT", "RATE"]),
        (18, ["NAME", "COUNT"]),
        (14, ["NAME", "COUNT"]),
    ],
)
def test_what_can_best_be_spared_goes_first_and_what_cannot_stays(width: int, headings: list[str]) -> None:
    table = FittingTable("NAME", Column("BUILD", spare=2), *numbers("COUNT"), *numbers("RATE", spare=1))
    table.add_row("greeter 1.0", "development", "12,345", "1.5")
    assert shown(table, width)[0] == headings


def test_a_text_loses_its_end_before_its_column_goes() -> None:
    table = FittingTable("NAME", Column("DESCRIPTION", cut=True, spare=1))
    table.add_row("greeter", "Says hello to everybody who comes in.")
    assert shown(table, 60)[1][-1] == "in."
    assert shown(table, 28) == [["NAME", "DESCRIPTION"], ["greeter", "Says", "hello", "to", "ever…"]]
    assert shown(table, 20) == [["NAME"], ["greeter"]]


def test_in_a_pipe_it_is_the_same_without_bounds_and_without_blanks_at_the_ends() -> None:
    table = FittingTable("NAME", *numbers("COUNT"), "REASON")
    table.add_row("a", "1,000", "kürzer")
    table.add_row("漢字", "2", "a longer reason")
    stream = io.StringIO()
    Console(file=stream, width=10_000, color_system=None).print(table)
    assert list(table.lines()) == [line.rstrip() for line in stream.getvalue().splitlines()]
