"""What `sqlite://` URLs say."""

from pathlib import Path

import pytest

from echo_core.errors import SettingsError
from echo_core.transports.sqlite.settings import StoreSettings, settings_from_url
from echo_core.transports.urls import transport_for


def test_a_url_without_anything_is_a_file_in_the_workspaces_state(tmp_path: Path) -> None:
    expected = StoreSettings(path=tmp_path / "core" / "state" / "messages.sqlite")
    assert settings_from_url("sqlite://", tmp_path) == expected


def test_a_path_may_have_blanks_and_signs(tmp_path: Path) -> None:
    assert (
        settings_from_url("sqlite://my%20data/a%3Fb.sqlite", tmp_path).path == tmp_path / "my data/a?b.sqlite"
    )


def test_a_link_is_the_file_that_it_leads_to(tmp_path: Path) -> None:
    """SQLite keeps the log there: whoever comes by the link must find the same files beside it."""
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere" / "real.sqlite")
    assert settings_from_url("sqlite://link", tmp_path).path == tmp_path / "elsewhere" / "real.sqlite"


def test_every_setting_can_be_given(tmp_path: Path) -> None:
    url = "sqlite://x?synchronous=normal&retain=1.5h&retain_size=2MB&max_size=3GB&lease=500ms&busy=2"
    assert settings_from_url(url, tmp_path) == StoreSettings(
        path=tmp_path / "x",
        synchronous="normal",
        retain_s=5_400,
        retain_bytes=2_000_000,
        max_bytes=3_000_000_000,
        lease_s=0.5,
        busy_s=2,
    )


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("sync=full", "'sync' is no option"),
        ("synchronous=off", "synchronous=full, or synchronous=normal"),
        ("retain=week", "retain=week"),
        ("retain=-1s", "90s, 15m, 12h or 7d"),
        ("max_size=5PB", "500MB or 20GB"),
        ("lease=0s", "leaves no time"),
        ("busy=", "write it like"),
    ],
)
def test_a_wrong_setting_is_named_with_what_it_should_be(query: str, said: str) -> None:
    with pytest.raises(SettingsError) as caught:
        transport_for(f"sqlite://x?{query}")
    assert said in str(caught.value)
