"""The answer to a name that does not exist: what is near it, and what there is."""

from collections.abc import Iterable
from difflib import get_close_matches

from echo_core.errors import NotFound

_SHOWN = 10


def not_found(what: str, wanted: str, existing: Iterable[str], *, where: str, fix: str) -> NotFound:
    """A `NotFound` for the `what` named `wanted`; `fix` is the next step if no near name is meant."""
    names = sorted(set(existing))
    near = get_close_matches(wanted, names, n=1)
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return NotFound(
        f"there is no {what} {wanted!r}",
        where=where,
        why=f"there is: {', '.join(names[:_SHOWN])}{more}" if names else "there is none at all",
        fix=f"did you mean {near[0]!r}? otherwise: {fix}" if near else fix,
    )
