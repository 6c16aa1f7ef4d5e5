"""What is told RabbitMQ of many deliveries at once settles those that were settled, and no other."""

from hypothesis import given
from hypothesis import strategies as st

from echo_core.transports.tags import Tags


class Channel:
    """What a server makes of the answers. It refuses, as RabbitMQ does, a tag that it does not wait for."""

    def __init__(self) -> None:
        self.tags = Tags()
        self.waits_for: set[int] = set()
        self.settled: set[int] = set()
        self.newest = 0

    def deliver(self, *, seen: bool = True) -> None:
        self.newest += 1
        self.waits_for.add(self.newest)
        if seen:
            self.tags.came(self.newest)

    def tell(self) -> int:
        told = self.tags.take_settled()
        for tag, multiple in told:
            assert tag in self.waits_for
            answered = {one for one in self.waits_for if one <= tag} if multiple else {tag}
            self.waits_for -= answered
            self.settled |= answered
        return len(told)


def test_all_that_was_settled_is_one_answer() -> None:
    channel = Channel()
    for _ in range(100):
        channel.deliver()
        channel.tags.settle(channel.newest)
    assert channel.tell() == 1
    assert not channel.waits_for


def test_what_this_process_never_saw_is_not_settled() -> None:
    channel = Channel()
    channel.deliver(seen=False)
    channel.deliver()
    channel.tags.settle(2)
    channel.tell()
    assert channel.settled == {2}


@given(st.lists(st.tuples(st.sampled_from(["deliver", "settle", "hand back", "tell"]), st.integers(0, 10))))
def test_exactly_what_was_settled_is_settled(steps: list[tuple[str, int]]) -> None:
    channel, in_hand, settled = Channel(), list[int](), set[int]()
    for step, place in steps:
        if step == "deliver":
            channel.deliver()
            in_hand.append(channel.newest)
        elif step == "tell":
            channel.tell()
        elif in_hand:
            tag = in_hand.pop(place % len(in_hand))
            if step == "settle":
                channel.tags.settle(tag)
                settled.add(tag)
            else:
                channel.waits_for.remove(tag)
                channel.tags.handed_back(tag)
    channel.tell()
    assert channel.settled == settled
    assert channel.waits_for == set(in_hand)
