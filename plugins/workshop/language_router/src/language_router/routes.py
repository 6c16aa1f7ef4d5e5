"""Which topic a language has."""

import re
from collections.abc import Iterable
from typing import Any, Final

_LANGUAGE: Final = re.compile(r"[A-Za-z]{2,3}(-[A-Za-z0-9]{2,8})*")


class Routes:
    """Tags are compared without case, and `en` serves `en-GB` unless that is listed itself."""

    def __init__(self, languages: Iterable[str], default: str) -> None:
        self._known = {language.lower(): language for language in languages}
        self._default = (f"captions.{default}",) if default else ()

    def topics(self, language: Any) -> tuple[str, ...]:
        """The topic for a language; the default's for one that is not known, or is no language tag."""
        if not isinstance(language, str) or not _LANGUAGE.fullmatch(language):
            return self._default
        if not self._known:
            return (f"captions.{language}",)
        tag = language.lower()
        known = self._known.get(tag) or self._known.get(tag.partition("-")[0])
        return (f"captions.{known}",) if known else self._default
