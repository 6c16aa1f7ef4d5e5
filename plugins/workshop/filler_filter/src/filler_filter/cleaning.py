"""Which words of a segment stay. Words are never rewritten, only taken out."""

from collections.abc import Iterable, Mapping
from typing import Any, Final

_ENDS: Final = frozenset(".?!:;…")


class Cleaner:
    """The rules, prepared once; words are compared without case and surrounding punctuation."""

    def __init__(
        self, fillers: Mapping[str, Iterable[str]], never_remove: Iterable[str], remove_repeated: bool
    ) -> None:
        protected = frozenset(map(core, never_remove))
        self._fillers = {
            language.lower(): frozenset(map(core, words)) - protected for language, words in fillers.items()
        }
        self._protected = protected
        self._remove_repeated = remove_repeated

    def clean(self, segment: Mapping[str, Any]) -> dict[str, Any]:
        """The segment with the words that stay, and with their times if it has them."""
        texts, kept = segment["text"].split(), self.kept(segment)
        result = {**segment, "text": " ".join(texts[at] for at in kept)}
        if "words" in segment:
            result["words"] = [segment["words"][at] for at in kept]
        return result

    def kept(self, segment: Mapping[str, Any]) -> list[int]:
        """The positions of the words that stay, in order."""
        texts = segment["text"].split()
        fillers = self._fillers_of(segment["language"])
        kept: list[int] = []
        for at, text in enumerate(texts):
            if core(text) in fillers:
                continue
            if kept and self._is_repetition(texts[kept[-1]], text):
                # "the the" keeps the first, "the, the" the second: the comma went with the stumble.
                if not texts[kept[-1]][-1].isalnum():
                    kept[-1] = at
                continue
            kept.append(at)
        says_something = any(any(map(str.isalnum, texts[at])) for at in kept)
        return kept if says_something or len(kept) == len(texts) else []  # a lone dash is no remainder

    def _fillers_of(self, language: str) -> frozenset[str]:
        """The list of the tag itself, or of the language it begins with."""
        tag = language.lower()
        return self._fillers.get(tag) or self._fillers.get(tag.partition("-")[0]) or frozenset()

    def _is_repetition(self, earlier: str, text: str) -> bool:
        """Whether `text` only repeats `earlier`; numbers do not, nor words of another sentence."""
        word = core(text)
        return (
            self._remove_repeated
            and word == core(earlier)
            and word not in self._protected
            and any(map(str.isalpha, word))
            and not any(map(str.isdigit, word))
            and not _ENDS.intersection(earlier)
        )


def core(text: str) -> str:
    """The word without case and without what is not a letter or digit around it."""
    letters = [at for at, character in enumerate(text) if character.isalnum()]
    return text[letters[0] : letters[-1] + 1].casefold() if letters else text
