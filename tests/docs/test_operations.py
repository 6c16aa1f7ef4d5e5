"""`docs/operations.md` says what the code does."""

from pathlib import Path

from echo_core.runtime.states import NEXT

PAGE = (Path(__file__).parents[2] / "docs" / "operations.md").read_text(encoding="utf-8")


def test_the_table_of_states_is_the_table_of_the_code() -> None:
    table = PAGE.split("| state | meaning | from there |\n", 1)[1].split("\n\n", 1)[0]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()[1:]]
    shown = {
        state.strip("`"): {word.strip(" `") for word in after.split(",") if word} for state, _, after in rows
    }
    assert shown == {state.value: {after.value for after in NEXT[state]} for state in NEXT}
