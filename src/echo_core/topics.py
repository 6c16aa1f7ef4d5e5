"""Topics and topic patterns: AMQP's rules, one implementation for every transport.

A topic is words joined by dots. In a pattern `*` stands for exactly one word and `#` for zero or
more, anywhere (AMQP 0-9-1, section 3.1.3.3, topic exchanges; there `#` is the same).
"""

import re
from collections.abc import Iterable, Iterator
from typing import Final, Generic, TypeVar

from echo_core.errors import TopicError

MAX_LENGTH: Final = 255
_WORD: Final = re.compile(r"[A-Za-z0-9_-]+")
_ANY_ONE: Final = "*"
_ANY_NUMBER: Final = "#"
_NO_WORD: Final = "?"
"""Stands for every word that a pattern does not name; no topic has it."""

T = TypeVar("T")


def check_topic(topic: str) -> None:
    """Return if `topic` is well-formed; raise `TopicError` otherwise. Wildcards are not topics."""
    _check(topic, kind="topic", wildcards=frozenset())


def _check(text: str, *, kind: str, wildcards: frozenset[str]) -> None:
    if not isinstance(text, str):
        raise TopicError(f"a {kind} is text, not {type(text).__name__}", fix='write "words.joined.by.dots"')
    if len(text) > MAX_LENGTH:
        raise TopicError(
            f"the {kind} has {len(text)} characters",
            where=repr(text[:40] + "…"),
            fix=f"at most {MAX_LENGTH}",
        )
    for word in text.split("."):
        if word not in wildcards and not _WORD.fullmatch(word):
            raise TopicError(
                f"{text!r} is no {kind}",
                why=f"the word {word!r} is not allowed" if word else "it has an empty word",
                fix="join words of letters, digits, _ and - by single dots"
                + ("; * and # are words" if wildcards else ""),
            )


class TopicPattern:
    """A topic pattern. Equal text means equal pattern; raises `TopicError` when malformed."""

    __slots__ = ("_words", "text")

    def __init__(self, text: str) -> None:
        _check(text, kind="topic pattern", wildcards=frozenset({_ANY_ONE, _ANY_NUMBER}))
        self.text: Final = text
        self._words: Final = tuple(text.split("."))

    def matches(self, topic: str) -> bool:
        """Whether `topic` is one of those meant. Costs at most words(pattern) x words(topic) steps."""
        # The set of positions in the pattern that some reading of the topic so far has reached.
        positions = self._skip_empty({0})
        for word in topic.split("."):
            positions = self._step(positions, word)
        return len(self._words) in positions

    def _step(self, positions: Iterable[int], word: str) -> set[int]:
        """Where one more word leads from these positions."""
        reached = set()
        for at in positions:
            if at == len(self._words):
                continue
            expected = self._words[at]
            if expected == _ANY_NUMBER:
                reached.add(at)
            elif expected in (_ANY_ONE, word):
                reached.add(at + 1)
        return self._skip_empty(reached)

    def _skip_empty(self, positions: set[int]) -> set[int]:
        """Add the positions after each `#`, which may stand for no word at all."""
        result: set[int] = set()
        for at in positions:
            while at not in result:
                result.add(at)
                if at < len(self._words) and self._words[at] == _ANY_NUMBER:
                    at += 1
        return result

    def overlaps(self, other: "TopicPattern") -> bool:
        """Whether some topic is meant by both patterns."""
        mine, theirs = self._words, other._words
        pending, seen = [(0, 0)], set[tuple[int, int]]()
        while pending:
            at = pending.pop()
            if at == (len(mine), len(theirs)):
                return True
            if at in seen:
                continue
            seen.add(at)
            pending.extend(_common_steps(mine, theirs, *at))
        return False

    def covers(self, other: "TopicPattern") -> bool:
        """Whether every topic that `other` means is meant by this pattern too."""
        words = {*self._words, *other._words, _NO_WORD} - {_ANY_ONE, _ANY_NUMBER}
        pending = [(frozenset(other._skip_empty({0})), frozenset(self._skip_empty({0})))]
        seen = set(pending)
        while pending:
            theirs, mine = pending.pop()
            for word in words:
                reached = frozenset(other._step(theirs, word)), frozenset(self._step(mine, word))
                if len(other._words) in reached[0] and len(self._words) not in reached[1]:
                    return False
                if reached[0] and reached not in seen:
                    seen.add(reached)
                    pending.append(reached)
        return True

    @property
    def words(self) -> tuple[str, ...]:
        """The words, wildcards included."""
        return self._words

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TopicPattern) and other.text == self.text

    def __hash__(self) -> int:
        return hash(self.text)

    def __repr__(self) -> str:
        return f"TopicPattern({self.text!r})"


def _common_steps(
    mine: tuple[str, ...], theirs: tuple[str, ...], i: int, j: int
) -> Iterator[tuple[int, int]]:
    """Where two patterns, read to `i` and `j`, stand after one more word (or a `#` read as none)."""
    mine_rest = i < len(mine) and mine[i] == _ANY_NUMBER
    theirs_rest = j < len(theirs) and theirs[j] == _ANY_NUMBER
    if mine_rest:
        yield i + 1, j
    if theirs_rest:
        yield i, j + 1
    if i == len(mine) or j == len(theirs):
        return
    if mine_rest or theirs_rest or _ANY_ONE in (mine[i], theirs[j]) or mine[i] == theirs[j]:
        yield i + (not mine_rest), j + (not theirs_rest)


class _Node(Generic[T]):
    """One word of the filed patterns; a `#` node `swallows` any further word and stays where it is."""

    __slots__ = ("children", "swallows", "values")

    def __init__(self, *, swallows: bool = False) -> None:
        self.children: dict[str, _Node[T]] = {}
        self.values: dict[T, None] = {}
        self.swallows = swallows

    def child(self, word: str) -> "_Node[T]":
        if word not in self.children:
            self.children[word] = _Node(swallows=word == _ANY_NUMBER)
        return self.children[word]


class TopicTrie(Generic[T]):
    """Values filed under patterns; `match(topic)` finds those whose pattern means the topic.

    The cost of a match does not grow with the number of patterns that do not match, and answers are
    remembered per topic until a pattern is added or removed.
    """

    _REMEMBERED: Final = 10_000  # topics; a flood of one-off topics must not grow memory

    def __init__(self) -> None:
        self._root: _Node[T] = _Node()
        self._answers: dict[str, tuple[T, ...]] = {}

    def add(self, pattern: TopicPattern, value: T) -> None:
        """File `value` under `pattern`; filing it twice is filing it once."""
        node = self._root
        for word in pattern.words:
            node = node.child(word)
        node.values[value] = None
        self._answers.clear()

    def remove(self, pattern: TopicPattern, value: T) -> None:
        """Take `value` away from `pattern`; nothing happens if it is not there."""
        path = [(self._root, "")]
        for word in pattern.words:
            child = path[-1][0].children.get(word)
            if child is None:
                return
            path.append((child, word))
        path[-1][0].values.pop(value, None)
        for (node, word), (parent, _) in zip(reversed(path[1:]), reversed(path[:-1]), strict=True):
            if node.values or node.children:
                break
            del parent.children[word]
        self._answers.clear()

    def match(self, topic: str) -> tuple[T, ...]:
        """The values whose pattern means `topic`, each once, in the order they were found."""
        answer = self._answers.get(topic)
        if answer is None:
            if len(self._answers) >= self._REMEMBERED:
                self._answers.clear()
            answer = self._answers[topic] = self._find(topic.split("."))
        return answer

    def _find(self, words: list[str]) -> tuple[T, ...]:
        """Walk all readings of the topic side by side; a node is entered at most once a word."""
        nodes = self._with_empty_rests([self._root])
        for word in words:
            reached: dict[_Node[T], None] = {}
            for node in nodes:
                if node.swallows:
                    reached[node] = None
                for key in (word, _ANY_ONE):
                    if key in node.children:
                        reached[node.children[key]] = None
            nodes = self._with_empty_rests(reached)
        found: dict[T, None] = {}
        for node in nodes:
            found.update(node.values)
        return tuple(found)

    @staticmethod
    def _with_empty_rests(nodes: Iterable[_Node[T]]) -> dict[_Node[T], None]:
        """The nodes, and those behind a `#` that stands for no word."""
        result: dict[_Node[T], None] = {}
        for node in nodes:
            rest: _Node[T] | None = node
            while rest is not None and rest not in result:
                result[rest] = None
                rest = rest.children.get(_ANY_NUMBER)
        return result


class TopicSet:
    """Some patterns, and whether a topic is one of those they mean; answers are remembered."""

    def __init__(self, patterns: Iterable[str | TopicPattern]) -> None:
        self._trie: TopicTrie[TopicPattern] = TopicTrie()
        for pattern in patterns:
            compiled = pattern if isinstance(pattern, TopicPattern) else TopicPattern(pattern)
            self._trie.add(compiled, compiled)

    def __contains__(self, topic: str) -> bool:
        return bool(self._trie.match(topic))
