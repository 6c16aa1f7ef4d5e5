"""The bell between the event loop and the store's thread."""

import threading

from echo_core.transports.sqlite.writer import Bell

LONG_S = 60


def test_a_bell_wakes_who_waits() -> None:
    bell, waits = Bell(), threading.Event()

    def wait() -> None:
        waits.set()
        bell.wait(LONG_S)

    thread = threading.Thread(target=wait)
    thread.start()
    waits.wait(LONG_S)
    bell.ring()
    thread.join(LONG_S / 2)
    assert not thread.is_alive()


def test_a_bell_that_was_rung_before_is_heard_at_once_and_only_once() -> None:
    bell = Bell()
    bell.ring()
    bell.ring()
    assert bell.wait(LONG_S)
    assert not bell.wait(0)


def test_a_bell_that_is_hushed_is_heard_when_it_is_rung_again() -> None:
    bell = Bell()
    bell.hush()
    bell.ring()
    bell.hush()
    assert not bell.wait(0)
    bell.ring()
    assert bell.wait(LONG_S)
