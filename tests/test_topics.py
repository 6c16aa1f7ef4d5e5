import itertools
import sys
import tracemalloc
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from echo_core import topics as topics_module
from echo_core.errors import TopicError
from echo_core.topics import MAX_LENGTH, TopicPattern, TopicSet, TopicTrie, check_topic
from strategies import patterns, topics


def naive_match(pattern: Sequence[str], topic: Sequence[str]) -> bool:
    """AMQP's rule, word for word as it reads, with no thought of cost."""
    if not pattern:
        return not topic
    first, rest = pattern[0], pattern[1:]
    if first == "#":
        return any(naive_match(rest, topic[skipped:]) for skipped in range(len(topic) + 1))
    return bool(topic) and first in ("*", topic[0]) and naive_match(rest, topic[1:])


def means(pattern: str, topic: str) -> bool:
    return naive_match(pattern.split("."), topic.split("."))


def steps(function: Callable[[], object]) -> int:
    """Lines of the topics module that a call executes: its cost, whatever the machine does meanwhile."""
    count = 0

    def trace(frame: FrameType, event: str, arg: Any) -> Any:
        nonlocal count
        if frame.f_code.co_filename != topics_module.__file__:
            return None
        count += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        function()
    finally:
        sys.settrace(before)
    return count


def memory_after(few: int, many: int, action: Callable[[int], object]) -> tuple[int, int]:
    """Bytes that Python holds after the action was done a few times, and many times."""
    tracemalloc.start()
    try:
        for number in range(few):
            action(number)
        early = tracemalloc.get_traced_memory()[0]
        for number in range(few, many):
            action(number)
        return early, tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()


@given(pattern=patterns(), topic=topics())
@example(pattern="#", topic="a")
@example(pattern="#.#.a.#", topic="a")
@example(pattern="*.#", topic="a")
@example(pattern="a.#.*", topic="a")
def test_a_pattern_agrees_with_the_ten_line_matcher(pattern: str, topic: str) -> None:
    assert TopicPattern(pattern).matches(topic) == means(pattern, topic)


def test_patterns_overlap_where_some_topic_is_meant_by_both_and_cover_where_all_are() -> None:
    every = [".".join(words) for size in (1, 2, 3) for words in itertools.product("ab*#", repeat=size)]
    meant = {
        pattern: {
            words
            for size in range(1, 6)
            for words in itertools.product("abc", repeat=size)
            if naive_match(pattern.split("."), words)
        }
        for pattern in every
    }
    for one, other in itertools.product(every, repeat=2):
        expected = bool(meant[one] & meant[other])
        assert TopicPattern(one).overlaps(TopicPattern(other)) is expected, (one, other)
        expected = meant[one] >= meant[other]
        assert TopicPattern(one).covers(TopicPattern(other)) is expected, (one, other)


@pytest.mark.parametrize(
    ("pattern", "matching", "other"),
    [
        ("a.b", ["a.b"], ["a", "a.b.c", "a.x", "b.a"]),
        ("a.*", ["a.b", "a.x"], ["a", "a.b.c", "b.a"]),
        ("*.b", ["a.b"], ["b", "a.a.b"]),
        ("a.#", ["a", "a.b", "a.b.c"], ["b", "b.a"]),
        ("#.b", ["b", "a.b", "a.a.b"], ["b.a"]),
        ("a.#.b", ["a.b", "a.x.b", "a.x.y.b"], ["a", "a.b.x"]),
        ("#", ["a", "a.b.c.d"], []),
        ("*.#.*", ["a.b", "a.b.c"], ["a"]),
    ],
)
def test_star_is_one_word_and_hash_any_number_of_them(
    pattern: str, matching: list[str], other: list[str]
) -> None:
    assert [topic for topic in matching + other if TopicPattern(pattern).matches(topic)] == matching


@pytest.mark.parametrize(
    "hostile",
    [["#"] * 120, ["#", "*"] * 60, ["*", "#"] * 60, ["#"] * 119 + ["b"]],
    ids=["#.#", "#.*", "*.#", "#.#.b"],
)
def test_a_hostile_pattern_costs_no_more_than_its_words_times_the_topics(hostile: list[str]) -> None:
    longest = ".".join("a" * 127)
    pattern = TopicPattern(".".join(hostile))
    trie: TopicTrie[int] = TopicTrie()
    trie.add(pattern, 1)
    lines_a_step = 15
    bound = lines_a_step * len(hostile) * 127
    assert steps(lambda: pattern.matches(longest)) <= bound
    assert steps(lambda: trie.match(longest)) <= bound
    assert pattern.matches(longest) == bool(trie.match(longest)) == (hostile[-1] != "b")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "empty word"),
        (".", "empty word"),
        ("a..b", "empty word"),
        (".a", "empty word"),
        ("a.", "empty word"),
        ("a b", "'a b' is not allowed"),
        ("a.b#", "'b#' is not allowed"),
        ("a.**", "'**' is not allowed"),
        ("a.é", "'é' is not allowed"),
        ("a\n", "not allowed"),
        ("a" * (MAX_LENGTH + 1), f"{MAX_LENGTH + 1} characters"),
        (7, "not int"),
    ],
)
def test_a_malformed_topic_or_pattern_is_refused_with_the_reason(text: Any, said: str) -> None:
    for check in (check_topic, TopicPattern):
        with pytest.raises(TopicError) as refused:
            check(text)
        assert said in str(refused.value)
        assert refused.value.fix


@pytest.mark.parametrize("text", ["*", "#", "a.*", "#.a"])
def test_a_wildcard_is_for_patterns_and_refused_in_a_topic(text: str) -> None:
    TopicPattern(text)
    with pytest.raises(TopicError, match="is no topic"):
        check_topic(text)


@given(topic=topics())
def test_a_topic_is_well_formed_and_a_pattern_that_means_itself_alone(topic: str) -> None:
    check_topic(topic)
    pattern = TopicPattern(topic)
    assert pattern.matches(topic)
    assert not pattern.matches(topic + ".more")


@given(pattern=patterns())
def test_a_pattern_is_a_value_known_by_its_text(pattern: str) -> None:
    one, same = TopicPattern(pattern), TopicPattern(pattern)
    assert (one, hash(one)) == (same, hash(same))
    assert one != TopicPattern(pattern + ".more")
    assert one != pattern
    assert eval(repr(one), {"TopicPattern": TopicPattern}) == one  # noqa: S307  (our own text)


filing = st.tuples(st.booleans(), patterns(max_words=4), st.integers(0, 3))


@given(filings=st.lists(filing, max_size=12), asked=st.lists(topics(max_words=4), min_size=1, max_size=3))
def test_a_trie_agrees_with_asking_every_pattern_whatever_was_filed_and_taken_away(
    filings: list[tuple[bool, str, int]], asked: list[str]
) -> None:
    trie: TopicTrie[int] = TopicTrie()
    filed: set[tuple[str, int]] = set()
    for is_added, pattern, value in filings:
        if is_added:
            trie.add(TopicPattern(pattern), value)
            filed.add((pattern, value))
        else:
            trie.remove(TopicPattern(pattern), value)
            filed.discard((pattern, value))
        # Asked after every change, so an answer remembered from before it would show.
        for topic in asked:
            answer = trie.match(topic)
            assert len(answer) == len(set(answer))
            assert set(answer) == {value for pattern, value in filed if means(pattern, topic)}


def test_taking_one_value_away_leaves_the_others_under_the_same_pattern() -> None:
    trie: TopicTrie[str] = TopicTrie()
    for value in ("one", "two"):
        trie.add(TopicPattern("a.*"), value)
    trie.add(TopicPattern("a.*.b"), "deeper")
    trie.remove(TopicPattern("a.*"), "one")
    trie.remove(TopicPattern("a.*"), "never there")
    trie.remove(TopicPattern("z.z"), "two")
    assert trie.match("a.x") == ("two",)
    assert trie.match("a.x.b") == ("deeper",)


def test_a_match_costs_the_same_among_ten_patterns_and_among_a_thousand() -> None:
    def cost_among(others: int) -> int:
        trie: TopicTrie[int] = TopicTrie()
        trie.add(TopicPattern("transcript.*"), -1)
        for number in range(others):
            trie.add(TopicPattern(f"other-{number}.*.#"), number)
        return steps(lambda: trie.match("transcript.raw"))

    assert cost_among(1_000) == cost_among(10)


def test_a_flood_of_one_off_topics_does_not_grow_memory() -> None:
    trie: TopicTrie[int] = TopicTrie()
    trie.add(TopicPattern("a.#"), 1)

    early, late = memory_after(10_000, 40_000, lambda number: trie.match(f"a.{number}"))
    assert late < early * 1.5


def test_a_pattern_that_is_taken_away_leaves_nothing_behind() -> None:
    trie: TopicTrie[int] = TopicTrie()

    def come_and_go(number: int) -> None:
        pattern = TopicPattern(f"reply-{number}.*.#")
        trie.add(pattern, number)
        trie.remove(pattern, number)

    early, late = memory_after(100, 2_000, come_and_go)
    assert late < early + 10_000


@given(members=st.lists(patterns(max_words=4), max_size=4), topic=topics(max_words=4))
def test_a_topic_is_in_a_set_when_one_of_its_patterns_means_it(members: list[str], topic: str) -> None:
    wanted = any(means(pattern, topic) for pattern in members)
    assert (topic in TopicSet(members)) == wanted
    assert (topic in TopicSet(TopicPattern(pattern) for pattern in members)) == wanted
