"""`echo-core explain`: what an error code means and what to do, offline."""

import difflib
import importlib
import inspect
from importlib import resources
from typing import Annotated, Any, Final

from cyclopts import Parameter

from echo_core.cli.session import SessionArgument
from echo_core.errors import EchoCoreError, NotFound

Code = Annotated[str, Parameter(help='The code in brackets after "error", like E-NAME; none: list them.')]


def explain(code: Code = "", /, *, session: SessionArgument) -> None:
    """Explain an error code.

    What it means, what its exit code is, and what to do. For example: echo-core explain E-NAME
    """
    if not code:
        known = {code: meaning(classes[0]) for code, classes in sorted(error_classes().items())}
        width = max(map(len, known))
        lines = [f"{code:<{width}}  {text}" for code, text in known.items()]
        session.out.result("explain", {"codes": known}, "\n".join(lines))
        return
    page = page_for(code.upper())
    kinds = "".join(f"\n- {name}: {text}" for name, text in page["kinds"].items())
    also = f"\n\nThese have it too:\n{kinds}" if kinds else ""
    text = f"{page['code']} (exit code {page['exit_code']})\n\n{page['meaning']}{also}\n\n{page['advice']}"
    session.out.result("explain", page, text)


def page_for(code: str) -> dict[str, Any]:
    """All there is to say about a code; raises `NotFound` for one that is none."""
    classes = error_classes()
    if code not in classes:
        near = difflib.get_close_matches(code, classes, n=1)
        fix = f"did you mean {near[0]}?" if near else "echo-core explain lists them all"
        raise NotFound(f"there is no error code {code!r}", fix=fix)
    exit_code = classes[code][0].exit_code
    first, *others = classes[code]
    return {
        "code": code,
        "exit_code": exit_code,
        "meaning": meaning(first),
        "kinds": {kind.__name__: meaning(kind) for kind in others},
        "advice": advice()[code],
    }


def meaning(kind: type[EchoCoreError]) -> str:
    """The first paragraph of what the error class says of itself."""
    return " ".join((inspect.getdoc(kind) or "").partition("\n\n")[0].split())


def advice() -> dict[str, str]:
    """What to do, by code: the sections of `explanations.md`."""
    text = resources.files("echo_core.cli").joinpath("explanations.md").read_text(encoding="utf-8")
    sections = (section.partition("\n") for section in text.split("\n## ")[1:])
    return {code: body.strip() for code, _, body in sections}


_DEFINE_ERRORS: Final = (
    "cli.usage",
    "control.door",
    "runtime.dead_letters.desk",
    "runtime.isolation.session",
    "runtime.isolation.wire",
    "runtime.message_history.replay",
    "runtime.message_history.search",
)
"""Modules that add to the tree of `errors`; a test finds those that are missing here."""


def error_classes() -> dict[str, list[type[EchoCoreError]]]:
    """The error classes by their code; one that adds no code of its own stands with its parent."""
    for module in _DEFINE_ERRORS:
        importlib.import_module(f"echo_core.{module}")

    found: dict[str, list[type[EchoCoreError]]] = {}
    pending: list[type[EchoCoreError]] = [EchoCoreError]
    while pending:
        kind = pending.pop(0)
        found.setdefault(kind.code, []).append(kind)
        pending.extend(kind.__subclasses__())
    return found
