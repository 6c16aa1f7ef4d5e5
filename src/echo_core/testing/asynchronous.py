"""Asynchronous tests without a plugin for pytest."""

import asyncio
import functools
from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec

P = ParamSpec("P")


def async_test(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """Make an `async def` test a plain one, each with an event loop of its own; fixtures still work.

    @async_test
    async def test_short_text_is_dropped() -> None:
        async with PluginHarness(create_plugin()) as harness: ...
    """

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        asyncio.run(test(*args, **kwargs))

    return run
