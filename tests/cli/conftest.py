"""How the tests of the command line call it: in this process, where nothing is said otherwise."""

from collections.abc import Callable
from subprocess import CompletedProcess

import pytest

from echo_core.cli.app import main


@pytest.fixture
def call(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., CompletedProcess[str]]:
    """Runs `echo-core` with these arguments, as if it were piped."""
    for variable in ("NO_COLOR", "FORCE_COLOR", "ECHO_CORE_DEBUG", "ECHO_CORE_PROJECT"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("COLUMNS", "100")

    def run(*arguments: object) -> CompletedProcess[str]:
        tokens = [str(argument) for argument in arguments]
        capsys.readouterr()
        code = main(tokens)
        captured = capsys.readouterr()
        return CompletedProcess(tokens, code, captured.out, captured.err)

    return run
