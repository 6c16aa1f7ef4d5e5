"""Tables without lines that fit where they are shown: what matters least is left out of a narrow one."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult
    from rich.table import Table

_UNLIMITED: Final = 10_000
"""Columns in which a table is measured: more than any needs."""
_MANY: Final = 500
_GAP: Final = 2
"""Between two columns."""
_LEAST: Final = 16
"""Columns in which it is still worth while to show the beginning of a text."""


@dataclass(frozen=True, slots=True)
class Column:
    """One column."""

    heading: str
    right: bool = False
    """Of numbers."""
    spare: int = 0
    """Where there is no room: what has the greatest goes first, and what has 0 stays."""
    cut: bool = False
    """Where there is no room its texts lose their ends."""


class FittingTable:
    """Rows of cells: texts, or what Rich can render."""

    def __init__(self, *columns: Column | str) -> None:
        """A text is a column of that heading, as it comes."""
        self._columns = [Column(column) if isinstance(column, str) else column for column in columns]
        self._rows: list[tuple[Sequence[Any], str]] = []

    def add_row(self, *cells: Any, style: str = "") -> None:
        """One for each column."""
        self._rows.append((cells, style))

    def lines(self) -> Iterator[str]:
        """As plain text, as wide as it needs; thousands of rows in no time."""
        from rich.cells import cell_len

        cells = [[str(cell) for cell in row] for row, _ in self._rows]
        table = [[column.heading for column in self._columns], *cells]
        widths = [max(map(cell_len, texts)) for texts in zip(*table, strict=True)]
        for row in table:
            padded = []
            for text, width, column in zip(row, widths, self._columns, strict=True):
                blanks = " " * (width - cell_len(text))
                padded.append(blanks + text if column.right else text + blanks)
            yield (" " * _GAP).join(padded).rstrip()

    def is_large(self) -> bool:
        """Whether Rich would take seconds."""
        return len(self._rows) > _MANY

    def fits(self, console: "Console", options: "ConsoleOptions") -> bool:
        """Whether there is room for all of it."""
        return self._width(self._columns, console, options) <= options.max_width

    def _width(self, columns: Sequence[Column], console: "Console", options: "ConsoleOptions") -> int:
        from rich.measure import Measurement

        return Measurement.get(console, options.update_width(_UNLIMITED), self._table(columns)).maximum

    def __rich_console__(self, console: "Console", options: "ConsoleOptions") -> "RenderResult":
        columns, room = self._columns, options.max_width
        while self._width(columns, console, options) > room:
            rest = [column for column in columns if not column.cut]
            left = room - self._width(rest, console, options) - _GAP
            spare = max(columns, key=lambda column: column.spare)
            if len(rest) < len(columns) and left >= _LEAST:
                yield self._table(columns, cut=left)
                return
            if not spare.spare:
                break
            columns = [column for column in columns if column is not spare]
        yield self._table(columns)

    def _table(self, columns: Sequence[Column], *, cut: int | None = None) -> "Table":
        from rich.table import Table

        table = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0))
        for column in columns:
            table.add_column(
                column.heading,
                justify="right" if column.right else "left",
                overflow="ellipsis" if column.cut else "fold",
                no_wrap=column.cut,
                max_width=cut if column.cut else None,
            )
        shown = [self._columns.index(column) for column in columns]
        for cells, style in self._rows:
            table.add_row(*(cells[place] for place in shown), style=style)
        return table


def numbers(*headings: str, spare: int = 0) -> list[Column]:
    """Columns of numbers."""
    return [Column(heading, right=True, spare=spare) for heading in headings]
