"""Which deliveries of an AMQP channel are still to be answered, so that many can be answered at once."""


class Tags:
    """The delivery tags of one channel, which count from 1."""

    def __init__(self) -> None:
        self._unanswered: dict[int, None] = {}
        self._settled: set[int] = set()
        self._newest = 0
        self._is_gapless = True

    def came(self, tag: int) -> None:
        """The server waits for an answer to this delivery from now on."""
        self._is_gapless = self._is_gapless and tag == self._newest + 1
        self._newest = tag
        self._unanswered[tag] = None

    def settle(self, tag: int) -> None:
        """The server is to be told."""
        self._settled.add(tag)

    def handed_back(self, tag: int) -> None:
        """The server was told."""
        self._unanswered.pop(tag, None)

    def take_settled(self) -> list[tuple[int, bool]]:
        """What the server is to be told: tags, and whether each stands for all unanswered before it as well.

        Only the oldest that were settled, without one between them that was not, are told as one; and none
        where this process has not seen every delivery, because such a one would be settled with them.
        """
        settled, self._settled = self._settled, set()
        last = 0
        if self._is_gapless:
            for tag in self._unanswered:
                if tag not in settled:
                    break
                last = tag
        for tag in settled:
            self._unanswered.pop(tag, None)
        together = [(last, True)] if last else []
        return together + [(tag, False) for tag in sorted(settled) if tag > last]
