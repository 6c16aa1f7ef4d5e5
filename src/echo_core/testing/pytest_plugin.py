"""Loaded by pytest itself; so it imports nothing of Echo Core until a test asks for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from echo_core import Plugin
    from echo_core.testing import PluginHarness


@pytest.fixture
def plugin_harness(request: pytest.FixtureRequest) -> Callable[..., PluginHarness]:
    """`PluginHarness` with the manifest of the folder that the test stands in.

    For a plugin whose class is not in that folder's source; `PluginHarness` itself finds the others.
    """
    from echo_core.testing.harness import PluginHarness, find_manifest

    def harness(plugin: Plugin, **options: Any) -> PluginHarness:
        return PluginHarness(plugin, **{"manifest": find_manifest(request.path), **options})

    return harness
