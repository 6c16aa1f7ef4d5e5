"""What is remembered of what was logged."""

import logging

from echo_core.control.log_tail import LogTail


def test_the_newest_records_are_kept_with_their_plugin_and_a_number_that_counts_up() -> None:
    tail = LogTail(kept=3)
    logger = logging.getLogger("echo.plugin.test_log_tail")
    with tail.listening():
        for number in range(5):
            logger.info("record %d", number, extra={"plugin.name": "odd" if number % 2 else "even"})
        logger.debug("not heard")
    logger.info("too late")
    assert [(line.number, line.text, line.plugin) for line in tail.lines()] == [
        (3, "record 2", "even"),
        (4, "record 3", "odd"),
        (5, "record 4", "even"),
    ]
    assert [line.number for line in tail.lines(plugin="even")] == [3, 5]
    assert [line.number for line in tail.lines(after=3, limit=1)] == [5]


def test_an_exception_is_kept_and_arguments_that_do_not_fit_are_no_trouble() -> None:
    tail = LogTail()
    logger = logging.getLogger("echo_core.test_log_tail")
    with tail.listening():
        try:
            raise ValueError("lost")
        except ValueError:
            logger.exception("it failed")
    tail.emit(logging.makeLogRecord({"msg": "%d and %d", "args": (1,)}))
    failed, misfit = tail.lines()
    assert "it failed\nTraceback" in failed.text
    assert failed.text.endswith("ValueError: lost")
    assert misfit.text.startswith("%d and %d (its arguments do not fit")
