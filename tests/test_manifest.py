import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from echo_core.errors import Fault, ManifestError
from echo_core.manifest import API_VERSION, Delivery, Manifest, Timeouts, check_host, parse, read
from strategies import json_values, patterns

GOOD: Mapping[str, Any] = {
    "name": "caption_transformer",
    "version": "0.1.0",
    "description": "Breaks text into captions.",
    "entry_point": "create_plugin",
    "subscriptions": ["transcript.*"],
    "publications": ["captions.en"],
}

# For every key there is: values that are right, and values that are wrong with what is said of them.
CASES: Mapping[str, tuple[list[Any], list[tuple[Any, str]]]] = {
    "name": (
        ["a", "my_plugin"],
        [
            ("My-Plugin", "lower-case"),
            ("class", "keyword"),
            (7, "a number"),
            ("", "letter first"),
            (None, "null"),
        ],
    ),
    "version": (
        ["0.1.0", "1.0rc1", "2!1.0.post3.dev4+local.1"],
        [
            ("", "no version"),
            ("one", "'one' is no version"),
            ("1.0-RC1", "canonical"),
            ("v1.0", "canonical"),
            (1.0, "a number is no version"),
            ([], "an array is no version"),
            ("1" * 5_000, "at most 100 characters"),
        ],
    ),
    "description": (
        ["does it", "x"],
        [("", "is empty"), (" \n", "is empty"), (["does it"], "must be text, not an array")],
    ),
    "entry_point": (
        ["create_plugin", "_make"],
        [
            ("", "''"),
            ("create-plugin", "not the name"),
            ("a.b", "not the name"),
            ("class", "'class'"),
            (True, "a boolean"),
        ],
    ),
    "subscriptions": (
        [[], ["a.#", "*.b"]],
        [
            ("a.b", "must be an array"),
            (["a..b"], "empty word"),
            (["a b"], "not allowed"),
            ([7], "not int"),
            ({}, "an object"),
        ],
    ),
    "publications": (
        [[], ["captions.en", "captions.#"]],
        [("a.b", "must be an array"), (["x" * 256], "256 characters"), ([None], "not NoneType")],
    ),
    "config": (
        [{}, {"width": 42, "deep": {"er": [1]}}],
        [([], "must be an object, not an array"), (None, "null")],
    ),
    "plugin_type": (
        ["validator", "sink"],
        [("transfomer", "not one of"), ("", "not one of"), (["sink"], "an array")],
    ),
    "api_version": (
        [API_VERSION],
        [
            ("1", "'1' is not MAJOR.MINOR"),
            ("1.x", "not MAJOR.MINOR"),
            (1.0, "a number is not MAJOR.MINOR"),
            ("1.²", "not MAJOR.MINOR"),
            ("1" * 5_000 + ".0", "not MAJOR.MINOR"),
            ("1.999", "wants interface 1.999"),
            ("0.9", "wants interface 0.9"),
            ("2.0", "wants interface 2.0"),
        ],
    ),
    "requires_echo_core": (
        ["", ">=0.1", ">=0.1,<1,!=0.3.*", "~=1.2"],
        [
            ("1.0", "'1.0' is no version range"),
            ("newest", "no version range"),
            ([], "an array is no version range"),
            (None, "null is no version range"),
            (">=" + "1" * 5_000, "no version range"),
        ],
    ),
    "config_schema": ([None, {}, {"type": "object"}], [([], "must be an object"), ("object", "not text")]),
    "delivery": ([{}, {"lanes": 4}], [([], "must be an object"), (4, "not a number")]),
    "delivery.max_attempts": (
        [1, 1_000],
        [(0, "0 is out of range"), (1_001, "out of range"), (True, "a boolean")],
    ),
    "delivery.backoff_ms": ([1], [(0, "out of range"), (0.5, "must be a whole number")]),
    "delivery.backoff_max_ms": ([86_400_000], [(86_400_001, "out of range"), ("1s", "not text")]),
    "delivery.lanes": ([1, 1_024], [(0, "out of range"), (1_025, "out of range"), (None, "not null")]),
    "delivery.ordering_key": (
        ["", "source", "data", "data.speaker", "data.a.b"],
        [
            ("speaker", "a path into the message"),
            ("data.", "a path into the message"),
            ("data..speaker", "a path into the message"),
            ("source.name", "a path into the message"),
            (7, "a path into the message"),
        ],
    ),
    "delivery.queue_limit": (
        [1, 1_000_000],
        [(0, "out of range"), (1_000_001, "out of range"), ({}, "an object")],
    ),
    "delivery.when_full": (
        ["wait", "shed_newest", "shed_oldest"],
        [("drop", "'drop' is not one of wait, shed_newest"), (None, "null is not one of")],
    ),
    "delivery.max_in_flight": ([1, 1_000_000], [(0, "out of range"), (True, "a boolean")]),
    "delivery.circuit_failures": ([0, 8], [(-1, "out of range"), (1.5, "whole number")]),
    "delivery.circuit_open_ms": ([1], [(0, "out of range")]),
    "delivery.circuit_open_max_ms": ([1], [(0, "out of range")]),
    "delivery.batch_size": (
        [1, 10_000],
        [(0, "out of range"), (10_001, "out of range"), ("all", "not text")],
    ),
    "delivery.batch_wait_ms": ([0, 60_000], [(-1, "out of range"), (60_001, "out of range")]),
    "isolation": (["in_process", "process"], [("thread", "not one of"), (None, "null is not one of")]),
    "timeouts": ([{}, {"init_ms": 5}], [(10_000, "must be an object"), ("10s", "not text")]),
    "timeouts.init_ms": ([1, 86_400_000], [(0, "out of range"), (1.5, "whole number")]),
    "timeouts.message_ms": ([1], [(-1, "-1 is out of range"), ([], "an array")]),
    "timeouts.shutdown_ms": ([1], [(86_400_001, "out of range"), ("", "not text")]),
    "timeouts.health_ms": ([1], [(0, "out of range"), (False, "a boolean")]),
}


def document(**changes: Any) -> dict[str, Any]:
    return {**GOOD, **changes}


def parsed(content: Any) -> Manifest:
    return parse(json.dumps(content).encode())


def with_value(path: str, value: Any) -> dict[str, Any]:
    """The good manifest with this value at `key` or `table.key`."""
    key, _, inner = path.partition(".")
    return document(**{key: {inner: value} if inner else value})


def faults_of(content: Any) -> dict[str, Fault]:
    """The faults by path; as text or bytes the content is taken as it is."""
    raw = content.encode() if isinstance(content, str) else content
    if not isinstance(raw, bytes):
        raw = json.dumps(content).encode()
    with pytest.raises(ManifestError) as refused:
        parse(raw)
    assert all(fault.path and fault.reason and fault.fix for fault in refused.value.faults)
    assert str(refused.value).encode()  # it can be printed
    return {fault.path: fault for fault in refused.value.faults}


def value_at(manifest: Manifest, path: str) -> Any:
    value: Any = manifest
    for part in path.split("."):
        value = getattr(value, part)
    return value


def test_a_manifest_without_faults_is_read_key_by_key() -> None:
    manifest = parsed(GOOD)
    assert manifest == Manifest(
        name="caption_transformer",
        version="0.1.0",
        description="Breaks text into captions.",
        entry_point="create_plugin",
        subscriptions=("transcript.*",),
        publications=("captions.en",),
    )


def test_the_cases_cover_every_key_that_there_is() -> None:
    keys = {
        *Manifest.__struct_fields__,
        *(f"delivery.{key}" for key in Delivery.__struct_fields__),
        *(f"timeouts.{key}" for key in Timeouts.__struct_fields__),
    }
    assert set(CASES) == keys


@pytest.mark.parametrize(
    ("path", "value"), [(path, value) for path, (right, _) in CASES.items() for value in right]
)
def test_a_right_value_is_kept(path: str, value: Any) -> None:
    kept = value_at(parsed(with_value(path, value)), path)
    assert kept == msgspec.convert(value, type(kept))


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [(path, value, said) for path, (_, wrong) in CASES.items() for value, said in wrong],
)
def test_a_wrong_value_is_a_fault_at_its_path_and_no_other(path: str, value: Any, said: str) -> None:
    faults = faults_of(with_value(path, value))
    (at, fault), *others = faults.items()
    assert not others
    assert at.removesuffix("[0]") == f"$.{path}"
    assert said in fault.reason
    assert len(str(fault)) < 400


@pytest.mark.parametrize("key", GOOD)
def test_a_missing_key_is_a_fault_whose_fix_can_be_pasted(key: str) -> None:
    faults = faults_of({other: value for other, value in GOOD.items() if other != key})
    assert faults[f"$.{key}"].reason == "is missing"
    pasted = json.loads("{" + faults[f"$.{key}"].fix.removeprefix("add ") + "}")
    assert parsed(document(**pasted))


def test_ten_seeded_faults_are_reported_all_ten() -> None:
    faults = faults_of(
        {
            "name": "My-Plugin",
            "version": "1.0-beta",
            "description": "",
            "subscriptions": ["transcript.*", "a..b"],
            "publication": ["captions.en"],
            "publications": [],
            "plugin_type": "transfomer",
            "delivery": {"lanes": 0, "lane": 1},
            "timeouts": {"init_ms": "10s"},
        }
    )
    assert {path: fault.fix for path, fault in faults.items()} == {
        "$.name": '"name": "my_plugin"',
        "$.version": '"version": "1.0b0"',
        "$.description": "say something",
        "$.entry_point": 'add "entry_point": "create_plugin"',
        "$.subscriptions[1]": "join words of letters, digits, _ and - by single dots; * and # are words",
        "$.publication": 'write "publications", or prefix it with "x-"',
        "$.plugin_type": 'write "transformer"',
        "$.delivery.lanes": "from 1 to 1024",
        "$.delivery.lane": 'write "lanes", or prefix it with "x-"',
        "$.timeouts.init_ms": "from 1 to 86400000",
    }


def test_an_unknown_key_is_a_fault_that_names_the_nearest_or_all_known_ones() -> None:
    faults = faults_of(document(subscription=[], zzz=1, delivery={"max_attempt": 1}))
    assert 'write "subscriptions"' in faults["$.subscription"].fix
    assert "one of name, version, " in faults["$.zzz"].fix
    assert 'write "max_attempts"' in faults["$.delivery.max_attempt"].fix


def test_keys_that_begin_with_x_are_anybodys_at_every_level() -> None:
    extended = document(
        **{"x-owner": {"any": ["thing"]}, "delivery": {"x-why": 1, "lanes": 2}, "timeouts": {"x-": None}}
    )
    assert parsed(extended) == parsed(document(delivery={"lanes": 2}))


def test_a_source_that_subscribes_to_something_is_told_so() -> None:
    faults = faults_of(document(plugin_type="source"))
    assert "handles no messages" in faults["$.subscriptions"].reason
    assert parsed(document(plugin_type="source", subscriptions=[])).subscriptions == ()


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (b"", "not JSON: Expecting value at line 1, column 1"),
        (b'{\n  "name": "a",\n  "version" "1"\n}', "line 3, column 13"),
        (b'{"name": "a",}', "not JSON"),
        (b"\xff\xfe{\x00}\x00", "not UTF-8 at byte 0"),
        (b'{"name": "caf\xe9"}', "not UTF-8 at byte 13"),
        (b"[]", "must be an object, not an array"),
        (b'"text"', "must be an object, not text"),
        (b"null", "must be an object, not null"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"name": ' + b"9" * 5_000 + b"}", "too many digits"),
    ],
    ids=lambda value: repr(value[:20]),
)
def test_a_text_that_is_no_json_object_is_one_fault_that_says_where(raw: bytes, said: str) -> None:
    faults = faults_of(raw)
    assert list(faults) == ["$"]
    assert said in faults["$"].reason


def test_a_byte_order_mark_is_no_fault() -> None:
    assert parse(b"\xef\xbb\xbf" + json.dumps(GOOD).encode()) == parsed(GOOD)


def test_a_doubled_key_is_a_fault_at_its_own_path_and_hides_no_other() -> None:
    raw = (
        json.dumps(document(version="one"))[:-1]
        + ', "name": "again", "delivery": {"lanes": 1, "lanes": 2}, "config": {"list": [{"a": 1, "a": 2}]}}'
    )
    faults = faults_of(raw)
    assert {path for path, fault in faults.items() if fault.reason == "stands twice"} == {
        "$.name",
        "$.delivery.lanes",
        "$.config.list[0].a",
    }
    assert "$.version" in faults


def test_a_manifest_nested_deeper_than_anybody_reads_is_refused() -> None:
    def nested(levels: int) -> str:
        return json.dumps(GOOD)[:-1] + ', "config": {"a": ' + "[" * levels + "]" * levels + "}}"

    assert parse(nested(63).encode())
    for levels in (64, 900):
        (fault,) = faults_of(nested(levels)).values()
        assert fault.path == "$.config.a" + "[0]" * 63
        assert "nested too deeply" in fault.reason


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_a_number_that_json_cannot_say_is_refused_where_it_stands(number: str) -> None:
    raw = json.dumps(GOOD)[:-1] + ', "config": {"rates": [1, ' + number + "]}}"
    assert "no number in JSON" in faults_of(raw)["$.config.rates[1]"].reason


def test_text_that_is_no_unicode_is_refused_and_the_error_can_still_be_printed() -> None:
    raw = json.dumps(GOOD)[:-1] + r', "config": {"a": "\ud800", "\udfff": 1}}'
    faults = faults_of(raw)
    assert set(faults) == {"$.config.a", r'$.config["\udfff"]'}


def test_a_key_that_is_no_plain_word_is_quoted_in_its_path() -> None:
    assert set(faults_of(document(**{"a key\n": 1, "gr\u00f6\u00dfe": 2}))) == {
        r'$["a key\n"]',
        "$.gr\u00f6\u00dfe",
    }


def test_a_file_is_read_and_its_errors_name_it(tmp_path: Path) -> None:
    path = tmp_path / "manifest.json"
    path.write_text(json.dumps(GOOD), encoding="utf-8")
    assert read(path) == parsed(GOOD)
    path.write_text("{}", encoding="utf-8")
    with pytest.raises(ManifestError) as refused:
        read(path)
    assert refused.value.where == str(path)
    assert len(refused.value.faults) == len(GOOD)


def test_a_file_that_is_not_there_or_cannot_be_read_is_a_fault_with_a_next_step(tmp_path: Path) -> None:
    for path, reason in ((tmp_path / "none.json", "No such file"), (tmp_path, "Is a directory")):
        with pytest.raises(ManifestError, match=reason) as refused:
            read(path)
        assert "put a readable manifest.json there" in refused.value.fix


paths = st.sampled_from(sorted(CASES)) | st.text(max_size=8)


@given(changes=st.dictionaries(paths, json_values(surrogates=True), max_size=4))
@example(changes={"requires_echo_core": []})
@example(changes={"requires_echo_core": {}})
@example(changes={"version": "1" * 5_000})
@example(changes={"api_version": "1" * 5_000 + ".0"})
def test_any_json_at_any_key_gives_a_manifest_or_a_manifest_error(changes: dict[str, Any]) -> None:
    content = document()
    for path, value in changes.items():
        content.update(with_value(path, value))
    try:
        manifest = parse(json.dumps(content).encode())
    except ManifestError as refused:
        assert str(refused).encode()  # noqa: PT017  (either way is right)
    else:
        assert parse(msgspec.json.encode(manifest)) == manifest


@given(raw=st.binary(max_size=60) | json_values().map(lambda value: json.dumps(value).encode()))
def test_bytes_that_are_no_manifest_give_a_manifest_error(raw: bytes) -> None:
    with pytest.raises(ManifestError):
        parse(raw)


@given(
    topics=st.lists(patterns(), max_size=3),
    config=st.dictionaries(st.text(max_size=8), json_values(), max_size=3),
    lanes=st.integers(1, 1_024),
    plugin_type=st.sampled_from(["filter", "router"]),
)
def test_a_manifest_written_as_json_is_read_back_as_it_was(
    topics: list[str], config: dict[str, Any], lanes: int, plugin_type: str
) -> None:
    manifest = parsed(
        document(
            subscriptions=topics,
            publications=topics,
            config=config,
            delivery={"lanes": lanes},
            plugin_type=plugin_type,
        )
    )
    assert manifest.subscriptions == tuple(topics)
    assert manifest.config == config
    assert parse(msgspec.json.encode(manifest)) == manifest


@pytest.mark.parametrize(
    ("wanted", "host"),
    [
        ("", "0.0.1"),
        (">=1.3", "1.3.0"),
        (">=1.3", "1.3.0.dev4"),
        (">=1.3", "1.3.0rc1"),
        (">=1.3,<2", "1.9.9.dev0"),
        ("==1.3.*", "1.3.0a2"),
        (">=1.3.0.post1", "1.3.0.post1"),
        ("==1.3.0", "1.3.0+built.here"),
        ("~=1.3", "1.7"),
    ],
)
def test_a_host_that_the_range_means_is_admitted(wanted: str, host: str) -> None:
    check_host(parsed(document(requires_echo_core=wanted)), host_version=host, where="manifest.json")


@pytest.mark.parametrize(
    ("wanted", "host"),
    [
        (">=1.3", "1.2.9"),
        ("<2", "2.0.0"),
        ("<2", "2.0.0.dev1"),
        ("<2", "2.0rc1"),
        ("==1.3.*", "1.4.0.dev1"),
        (">=1.3.0.post1", "1.3.0"),
    ],
)
def test_any_other_host_is_refused_with_what_is_wanted_and_what_is_there(wanted: str, host: str) -> None:
    with pytest.raises(ManifestError) as refused:
        check_host(parsed(document(requires_echo_core=wanted)), host_version=host, where="x/manifest.json")
    (fault,) = refused.value.faults
    assert fault.path == "$.requires_echo_core"
    assert wanted in fault.reason
    assert host in fault.reason
    assert refused.value.where == "x/manifest.json"


def test_a_host_of_another_version_is_refused() -> None:
    manifest = parsed(document(isolation="process", requires_echo_core=">=9"))
    with pytest.raises(ManifestError) as refused:
        check_host(manifest, host_version="1.0", where="manifest.json")
    assert [fault.path for fault in refused.value.faults] == ["$.requires_echo_core"]
