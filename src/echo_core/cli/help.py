"""`echo-core help`: topics that belong to no single verb."""

import re
from typing import Annotated, Final, Literal

from cyclopts import Parameter

from echo_core.cli.session import Session, SessionArgument

_EVERYWHERE: Final = re.compile(r"\n\*\*Everywhere\*\*:\n\n(\* .*\n?)+")
"""The options that every command has, as its section repeats them; once is enough."""

Topic = Annotated[Literal["exit-codes", "reference"], Parameter(help="The topic.")]

EXIT_CODES: Final[dict[int, str]] = {
    0: "done",
    1: "failed: something was tried and did not work, or a run left dead letters",
    2: "wrong usage: a misspelt word, a bad name, a manifest or settings with faults",
    3: "not found: no such plugin, version, topic or message",
    4: "not allowed",
    5: "the host is not reachable",
    130: "interrupted: by Ctrl-C, or by a second signal while a run was stopping",
}
"""What the exit code of any command means; `EchoCoreError.exit_code` is one of them."""


def help_topic(topic: Topic, /, *, session: SessionArgument) -> None:
    """Read about a topic: exit-codes, reference.

    exit-codes says what the exit code of a command means; reference is every command with its arguments,
    as Markdown. For example: echo-core help exit-codes
    """
    if topic == "exit-codes":
        lines = [f"{code:>4}  {meaning}" for code, meaning in EXIT_CODES.items()]
        document = {str(code): meaning for code, meaning in EXIT_CODES.items()}
        session.out.result("help", {"topic": topic, "exit_codes": document}, "\n".join(lines))
    else:
        markdown = reference(session)
        session.out.result("help", {"topic": topic, "markdown": markdown}, markdown)


def reference(session: Session) -> str:
    """Every command, its arguments and options, as Markdown; `docs/cli.md` is this text."""
    from echo_core.cli.app import VERBS, build_app

    every = [word for verb in VERBS for word in verb.name.split()]
    markdown = str(build_app(session.out, every).generate_docs(output_format="markdown")).strip()
    first, *others = markdown.split("\n## ")
    return "\n## ".join([first, *(_EVERYWHERE.sub("", other) for other in others)])
