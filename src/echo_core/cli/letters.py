"""What the verbs of `dlq` have in common: which letters are meant, and who answers for them."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated

from cyclopts import Parameter

from echo_core.cli.arguments import plugin_names
from echo_core.cli.session import Session
from echo_core.runtime.dead_letters import FILE_NAME, DeadLetterStore, Selection
from echo_core.runtime.dead_letters.desk import LetterDesk
from echo_core.runtime.dead_letters.selection import chosen, selection

LetterId = Annotated[int, Parameter(help="The number that `dlq list` shows.")]
Ids = Annotated[int, Parameter(help="Numbers that `dlq list` shows.", negative=())]
All = Annotated[bool, Parameter(name="--all", help="All there are.")]


@Parameter(name="*")
@dataclass(frozen=True, slots=True, kw_only=True)
class Which:
    """Which dead letters are meant; what is not said excludes none."""

    plugin: Annotated[
        str | None, Parameter(help="Only what this plugin could not handle.", completer=plugin_names)
    ] = None
    error: Annotated[str, Parameter(help="Only those whose reason holds this text.")] = ""
    topic: Annotated[str, Parameter(help="Only those that came on topics of this pattern.")] = ""
    id: Annotated[
        str, Parameter(help="Only those with this id: the message's, its root's or its trace's.")
    ] = ""
    since: Annotated[
        str,
        Parameter(help="Only those kept since then: 2026-11-25, 2026-11-25T18:00, or 2h for two hours ago."),
    ] = ""
    until: Annotated[str, Parameter(help="Only those kept before then.")] = ""

    def selection(self, ids: tuple[int, ...] = ()) -> Selection:
        """For the store; raises `SelectionError` for a time that is none."""
        return selection(
            ids=ids,
            plugin=self.plugin,
            error=self.error,
            topic=self.topic,
            id=self.id,
            since=self.since,
            until=self.until,
        )


def meant(which: Which | None, ids: tuple[int, ...], everything: bool) -> Selection:
    """The letters that are meant; raises `SelectionError` when nothing was said that chooses."""
    return chosen((which or Which()).selection(ids), everything=everything)


@contextmanager
def desk_of(session: Session) -> Iterator[LetterDesk]:
    """The workspace's dead letters, until the end of the block; no host is needed."""
    desk = LetterDesk(DeadLetterStore(session.workspace().state / FILE_NAME))
    try:
        yield desk
    finally:
        desk.close()
