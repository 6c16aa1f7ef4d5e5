"""Where words go: results to stdout, talk and errors to stderr, and all of it as JSON when asked.

With `--json` a command prints exactly one object, `{"schema": "echo-core.<command>/1", ...}`; an error is
one object on stderr, `{"error": {"code", "message", "where", "why", "fix"}}`. Nothing else is said then,
but for what is logged as a warning during a run.
"""

import os
import sys
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, Final, Literal, TextIO

from echo_core.errors import EchoCoreError

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

Color = Literal["auto", "always", "never"]

SCHEMA_VERSION: Final = 1
_PIPED_WIDTH: Final = 10_000
"""Columns when nobody looks: a line of a table is then never broken or cut."""


class Output:
    """The two streams of one command."""

    def __init__(
        self,
        *,
        json: bool = False,
        color: Color = "auto",
        stdout: TextIO | None = None,
        stderr: TextIO | None = None,
    ) -> None:
        self.json = json
        self.color = color
        self._stdout = stdout
        self._stderr = stderr

    @property
    def stdout(self) -> TextIO:
        """For the result."""
        return self._stdout or sys.stdout

    @property
    def stderr(self) -> TextIO:
        """For everything else."""
        return self._stderr or sys.stderr

    def result(self, command: str, document: Any, text: "RenderableType") -> None:
        """Print what the command found: `document` (a mapping or a dataclass) with --json, else `text`."""
        if self.json:
            body = to_builtins(document)
            print_json({"schema": f"echo-core.{command}/{SCHEMA_VERSION}", **body}, self.stdout)
        elif isinstance(text, str):
            print(text, file=self.stdout)  # Rich takes longer to load than most commands to run
        else:
            self._show(text)

    def _show(self, text: "RenderableType") -> None:
        from echo_core.cli.tables import FittingTable

        terminal = is_terminal(self.stdout)
        if isinstance(text, FittingTable) and (text.is_large() or not terminal) and self.color != "always":
            self.stdout.writelines(f"{line}\n" for line in text.lines())
        elif terminal:
            self.console(self.stdout).print(text)
        else:
            console = self.console(self.stdout)
            with console.capture() as capture:
                console.print(text)
            # A table fills its last column up; who reads a pipe has no use for that.
            self.stdout.writelines(f"{line.rstrip()}\n" for line in capture.get().split("\n")[:-1])

    def note(self, text: "RenderableType") -> None:
        """Say something by the way; never part of the result, and never said to a script (--json)."""
        if self.json:
            return
        if isinstance(text, str):
            print(text, file=self.stderr)
        else:
            self.console(self.stderr).print(text)

    def error(self, error: EchoCoreError) -> None:
        """Say what failed, where, why, and what to do next."""
        if self.json:
            print_json({"error": error_document(error)}, self.stderr)
        else:
            self.console(self.stderr).print(error_text(error), soft_wrap=True)

    def console(self, stream: TextIO, *, wide: bool = True) -> "Console":
        """A Rich console on the stream; without any style unless colour is wanted there.

        `wide`: where nobody looks, lines are as long as they like, so that a table is never cut.
        """
        from rich.console import Console

        terminal = is_terminal(stream)
        styled = self.color == "always" or (
            self.color == "auto" and terminal and not os.environ.get("NO_COLOR")
        )
        return Console(
            file=stream,
            force_terminal=True if self.color == "always" else None,
            color_system="auto" if styled else None,
            no_color=False if styled else None,
            width=_PIPED_WIDTH if wide and not terminal else None,
            highlight=False,
            markup=False,
            emoji=False,
        )


def is_terminal(stream: TextIO) -> bool:
    """Whether a person may be looking, on something that can move its cursor."""
    return stream.isatty() and os.environ.get("TERM", "") != "dumb"


def print_json(document: Mapping[str, Any], stream: TextIO) -> None:
    """Print one object on one line."""
    import msgspec

    stream.write(msgspec.json.encode(document).decode() + "\n")


def to_builtins(document: Any) -> dict[str, Any]:
    """The document as JSON-like values; paths become text."""
    import msgspec

    result = msgspec.to_builtins(document, enc_hook=_encode)
    if not isinstance(result, dict):
        raise TypeError(f"a command's document is an object, not {type(result).__name__}")
    return result


def _encode(value: Any) -> Any:
    if isinstance(value, PurePath):
        return str(value)
    raise NotImplementedError(f"no JSON for {type(value).__name__}")


def error_document(error: EchoCoreError) -> dict[str, str]:
    """The error, for scripts."""
    return {
        "code": error.code,
        "message": error.what,
        "where": error.where,
        "why": error.why,
        "fix": error.fix,
    }


def error_text(error: EchoCoreError) -> "RenderableType":
    """The error, for people."""
    from rich.text import Text

    text = Text()
    text.append(f"error[{error.code}]", style="bold red")
    text.append(f": {printable(error.what)}")
    for label, content, style in (
        ("at", error.where, ""),
        ("why", error.why, ""),
        ("fix", error.fix, "bold"),
    ):
        if content:
            text.append(f"\n  {label + ':':<5}")
            text.append(printable(content).replace("\n", "\n       "), style=style)
    return text


def place(path: Path) -> str:
    """The path as a person would type it from here."""
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)


def printable(text: str) -> str:
    """Text from outside, with everything that could steer a terminal made visible instead."""
    return "".join(char if char.isprintable() or char in "\n\t" else ascii(char)[1:-1] for char in text)
