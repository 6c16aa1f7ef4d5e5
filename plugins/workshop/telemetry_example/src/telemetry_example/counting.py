"""What the example measures: the words of any data."""

from collections.abc import Iterable
from typing import Any


def texts_in(data: Any) -> list[str]:
    """Every text in the data, however deep it lies."""
    texts, unread = [], [data]
    while unread:
        value = unread.pop()
        if isinstance(value, str):
            texts.append(value)
        elif isinstance(value, dict):
            unread.extend(value.values())
        elif isinstance(value, list | tuple):
            unread.extend(value)
    return texts


def words_in(texts: Iterable[str]) -> int:
    """How many words there are, told apart by white space."""
    return sum(len(text.split()) for text in texts)
