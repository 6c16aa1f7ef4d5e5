"""Hypothesis strategies for the vocabulary: topics, patterns, JSON values, messages."""

from typing import Any

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from echo_core.message import BaseMessage, Receipt

# Few words, so that patterns and topics often meet.
WORDS = ("a", "b", "transcript", "x-1", "A_b")


def topics(*, max_words: int = 6) -> SearchStrategy[str]:
    """Well-formed topics."""
    return st.lists(st.sampled_from(WORDS), min_size=1, max_size=max_words).map(".".join)


def patterns(*, max_words: int = 6) -> SearchStrategy[str]:
    """Well-formed topic patterns, about half of their words wildcards, many `#` in a row among them."""
    word = st.one_of(st.sampled_from(WORDS), st.sampled_from("*#"))
    return st.lists(word, min_size=1, max_size=max_words).map(".".join)


def json_values(*, surrogates: bool = False) -> SearchStrategy[Any]:
    """Values that JSON can say and a message can carry; with `surrogates`, also text that is no Unicode."""
    # The default alphabet leaves surrogates out, `characters` does not.
    text = st.text(st.characters(), max_size=20) if surrogates else st.text(max_size=20)
    numbers = st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False)
    return st.recursive(
        st.none() | st.booleans() | numbers | text,
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(text, inner, max_size=4),
        max_leaves=12,
    )


def receipts() -> SearchStrategy[Receipt]:
    """Receipts of any lineage."""
    return st.builds(
        Receipt, message_id=st.uuids().map(str), source=st.sampled_from(WORDS), hop=st.integers(1, 1_000)
    )


def messages() -> SearchStrategy[BaseMessage]:
    """Messages as a transport may be given them."""
    return st.builds(
        BaseMessage,
        id=st.uuids().map(str),
        timestamp=st.integers(0, 2**63 - 1),
        source=st.sampled_from(WORDS),
        version=st.sampled_from(("", "0.1.0", "2.0rc1")),
        data=json_values() | st.binary(max_size=20),
        schema=st.sampled_from(("", "segment/1")),
        trace_context=st.dictionaries(st.sampled_from(("traceparent", "tracestate")), st.just("00-ab-cd-01")),
        receipts=st.lists(receipts(), max_size=4).map(tuple),
    )
