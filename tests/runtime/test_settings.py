"""The host's settings."""

from pathlib import Path

import pytest

from echo_core.errors import SettingsError
from echo_core.runtime.settings import Settings, load_settings
from echo_core.workspace import Workspace


def settings_from(folder: Path, text: str) -> Settings:
    (folder / "echo-core.toml").write_text(text, encoding="utf-8")
    return load_settings(Workspace(folder))


def test_an_empty_file_means_the_defaults(tmp_path: Path) -> None:
    assert settings_from(tmp_path, "") == Settings()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[host", "not TOML"),
        ("[host]\ntransprot = 'memory://'", "transprot"),
        ("[host]\nhealth_interval_s = 'often'", "health_interval_s"),
        ("[hosts]\n", "hosts"),
        ("[host]\nhealth_interval_s = 0", "above 0, got 0.0 - at `health_interval_s`"),
        ("[host]\nshutdown_timeout_s = -1.0", "above 0, got -1.0 - at `shutdown_timeout_s`"),
        ("[host]\nshutdown_timeout_s = nan", "above 0, got nan"),
        ("[host]\nhealth_interval_s = inf", "above 0, got inf"),
        ("[host]\nblocked_after_s = 0", "above 0, got 0.0 - at `blocked_after_s`"),
        ("[host]\nstalled_after_s = -1", "above 0, got -1.0 - at `stalled_after_s`"),
        ("[host]\nmax_in_flight_messages = 0", "above 0, got 0 - at `max_in_flight_messages`"),
        ("[host]\nlocal = ['a..b']", "it has an empty word - at `local`"),
        ("[host]\nmax_in_flight_bytes = -1", "above 0, got -1 - at `max_in_flight_bytes`"),
    ],
)
def test_a_fault_names_the_file_and_the_place(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(SettingsError) as caught:
        settings_from(tmp_path, text)
    assert said in str(caught.value)
    assert str(tmp_path / "echo-core.toml") in caught.value.where


def test_the_memory_of_a_process_is_at_least_what_it_takes_for_itself(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"expected 64 or more, or 0 for no limit .*plugins.a.memory_mb"):
        settings_from(tmp_path, "[isolation.plugins.a]\nmemory_mb = 8\n")


def test_how_far_plugins_are_kept_apart(tmp_path: Path) -> None:
    found = settings_from(
        tmp_path,
        '[isolation]\ntier = "process"\n[isolation.plugins.a]\nmemory_mb = 0\nenvironment = ["MODEL"]\n',
    )
    assert found.isolation.tier == "process"
    assert found.isolation.plugins["a"].environment == ("MODEL",)
    with pytest.raises(SettingsError, match="tier"):
        settings_from(tmp_path, '[isolation]\ntier = "container"\n')
