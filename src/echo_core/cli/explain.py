"""`echo-core explain`: what an error code means and what to do, offline."""

import difflib
import inspect
from importlib import resources
from typing import Annotated, Any

from cyclopts import Parameter

from echo_core.cli.session import SessionArgument
from echo_core.errors import EchoCoreError, NotFound

Code = Annotated[str, Parameter(help='The code in brackets after "error", like E-NAME; none: list them.')]


def explain(code: Code = "", /, *, session: SessionArgument) -> None:
    """Explain an error code.

    What it means, what its exit code is, and what to do. For example: echo-core explain E-NAME
    """
    if not code:
        known = {code: meaning(classes) for code, classes in sorted(error_classes().items())}
        width = max(map(len, known))
        lines = [f"{code:<{width}}  {text}" for code, text in known.items()]
        session.out.result("explain", {"codes": known}, "\n".join(lines))
        return
    page = page_for(code.upper())
    text = f"{page['code']} (exit code {page['exit_code']})\n\n{page['meaning']}\n\n{page['advice']}"
    session.out.result("explain", page, text)


def page_for(code: str) -> dict[str, Any]:
    """All there is to say about a code; raises `NotFound` for one that is none."""
    classes = error_classes()
    if code not in classes:
        near = difflib.get_close_matches(code, classes, n=1)
        fix = f"did you mean {near[0]}?" if near else "echo-core explain lists them all"
        raise NotFound(f"there is no error code {code!r}", fix=fix)
    exit_code = classes[code][0].exit_code
    return {"code": code, "exit_code": exit_code, "meaning": meaning(classes[code]), "advice": advice()[code]}


def meaning(classes: list[type[EchoCoreError]]) -> str:
    """The first paragraph of what each of the error classes says of itself."""
    summaries = [(inspect.getdoc(kind) or "").partition("\n\n")[0] for kind in classes]
    return " ".join(" ".join(summary.split()) for summary in summaries)


def advice() -> dict[str, str]:
    """What to do, by code: the sections of `explanations.md`."""
    text = resources.files("echo_core.cli").joinpath("explanations.md").read_text(encoding="utf-8")
    sections = (section.partition("\n") for section in text.split("\n## ")[1:])
    return {code: body.strip() for code, _, body in sections}


def error_classes() -> dict[str, list[type[EchoCoreError]]]:
    """The error classes by their code; one that adds no code of its own stands with its parent."""
    import echo_core.cli.usage
    import echo_core.control.door
    import echo_core.runtime.dead_letters
    import echo_core.runtime.letter_edits
    import echo_core.runtime.letter_files  # noqa: F401 - these define errors too

    found: dict[str, list[type[EchoCoreError]]] = {}
    pending: list[type[EchoCoreError]] = [EchoCoreError]
    while pending:
        kind = pending.pop(0)
        found.setdefault(kind.code, []).append(kind)
        pending.extend(kind.__subclasses__())
    return found
