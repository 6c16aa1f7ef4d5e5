import inspect
import re

import pytest

from echo_core import errors
from echo_core.errors import EchoCoreError, Fault, ManifestError, NameRefused

ALL = [kind for kind in vars(errors).values() if inspect.isclass(kind) and issubclass(kind, EchoCoreError)]
EXIT_CODES = {1: "failed", 2: "wrong usage", 3: "not found", 4: "not allowed", 5: "host not reachable"}


def drawn_tree() -> dict[str, str | None]:
    """Name and parent of each error, as the module's docstring draws them."""
    above: list[str] = []
    tree: dict[str, str | None] = {}
    for line in (errors.__doc__ or "").splitlines():
        drawn = re.match(r"([│├└─ ]*)(\w+)(?:$| {2,}\S)", line)
        if drawn is None:
            continue
        depth = len(drawn[1]) // 4
        del above[depth:]
        tree[drawn[2]] = above[-1] if above else None
        above.append(drawn[2])
    return tree


def test_the_tree_that_the_docstring_draws_is_the_tree_there_is() -> None:
    real = {kind.__name__: kind.__base__.__name__ for kind in ALL if kind.__base__}
    assert drawn_tree() == {**real, "EchoCoreError": None}


@pytest.mark.parametrize("kind", ALL)
def test_every_error_has_a_code_and_an_exit_code_of_the_command_line(kind: type[EchoCoreError]) -> None:
    assert re.fullmatch(r"E-[A-Z]+(-[A-Z]+)*", kind.code)
    assert kind.exit_code in EXIT_CODES


def test_an_error_says_what_where_why_and_what_to_do_next() -> None:
    error = EchoCoreError("the plugin did not start", where="plugins/x", why="no such file", fix="build it")
    assert str(error) == "the plugin did not start; at plugins/x; because no such file; fix: build it"


def test_an_error_leaves_out_what_it_does_not_know() -> None:
    assert str(EchoCoreError("it failed")) == "it failed"
    assert str(EchoCoreError("it failed", fix="try again")) == "it failed; fix: try again"


@pytest.mark.parametrize(("count", "said"), [(1, "1 fault"), (2, "2 faults"), (10, "10 faults")])
def test_a_manifest_error_holds_and_shows_every_fault(count: int, said: str) -> None:
    faults = [Fault(f"$.key_{number}", f"wrong {number}", f"mend {number}") for number in range(count)]
    error = ManifestError(faults, where="manifest.json")
    assert error.faults == tuple(faults)
    assert error.what == f"the manifest has {said}"
    for fault in faults:
        assert f"{fault.path}: {fault.reason}" in error.why.splitlines()
        assert f"{fault.path}: {fault.fix}" in error.fix.splitlines()


def test_a_fault_reads_as_place_reason_and_fix() -> None:
    assert str(Fault("$.name", "is missing", 'add "name"')) == '$.name: is missing (fix: add "name")'


def test_a_refused_name_offers_the_one_to_use() -> None:
    refused = NameRefused("My-Plugin", why="it has capitals", suggestion="my_plugin")
    assert refused.suggestion == "my_plugin"
    assert refused.fix == "use 'my_plugin'"
