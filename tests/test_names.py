import keyword
import sys

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from echo_core.errors import NameRefused
from echo_core.names import MAX_LENGTH, check_name, suggest_name

names = st.from_regex(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", fullmatch=True).filter(
    lambda name: len(name) <= MAX_LENGTH
)
reserved = st.sampled_from(
    sorted(
        {
            *keyword.kwlist,
            *keyword.softkwlist,
            *sys.stdlib_module_names,
            "test",
            "echo_core",
            "common_telemetry",
            "msgspec",
            "opentelemetry",
            "pytest",
            "conftest",
            "tests",
            "con",
        }
    )
)


def is_accepted(name: str) -> bool:
    try:
        check_name(name)
    except NameRefused:
        return False
    return True


@given(text=st.text() | names | reserved | reserved.map(str.upper))
@example(text="")
@example(text="_")
@example(text="123")
@example(text="class")
@example(text="a" * 200)
@example(text="a_" * 100)
@example(text="json" + "_" * 70)
@example(text="echo-core")
@example(text="İ\ud800")
def test_whatever_the_text_the_name_suggested_for_it_is_accepted(text: str) -> None:
    check_name(suggest_name(text))


@given(name=names.filter(is_accepted))
def test_the_suggestion_for_a_good_name_is_that_name(name: str) -> None:
    assert suggest_name(name) == name


@given(name=reserved)
def test_a_name_that_python_or_echo_core_needs_is_refused(name: str) -> None:
    assert not is_accepted(name)


@pytest.mark.parametrize("name", ["a", "x9", "my_plugin", "a_1_b", "caption_transformer", "a" * MAX_LENGTH])
def test_lower_case_words_joined_by_single_underscores_are_a_name(name: str) -> None:
    check_name(name)


@pytest.mark.parametrize(
    ("name", "why", "suggestion"),
    [
        ("", "a letter first", "my_plugin"),
        ("42", "a letter first", "my_plugin"),
        ("9lives", "a letter first", "lives"),
        ("_private", "a letter first", "private"),
        ("MyPlugin", "lower-case words", "my_plugin"),
        ("my-plugin", "lower-case words", "my_plugin"),
        ("my plugin", "lower-case words", "my_plugin"),
        ("my__plugin", "single underscores", "my_plugin"),
        ("plugin_", "single underscores", "plugin"),
        ("plugin\n", "lower-case words", "plugin"),
        ("../etc/passwd", "lower-case words", "etc_passwd"),
        ("Über Café", "lower-case words", "uber_cafe"),
        ("字幕", "lower-case words", "my_plugin"),
        ("a" * (MAX_LENGTH + 1), "this one 65", "a" * MAX_LENGTH),
        ("class", "Python keyword", "class_plugin"),
        ("match", "Python keyword", "match_plugin"),
        ("json", "standard library", "json_plugin"),
        ("echo_core", "package that Echo Core shares", "echo_core_plugin"),
        ("common_telemetry", "package that Echo Core shares", "common_telemetry_plugin"),
        ("con", "reserved file name", "con_plugin"),
        ("lpt1", "reserved file name", "lpt1_plugin"),
    ],
)
def test_any_other_name_is_refused_with_the_reason_and_the_nearest_good_one(
    name: str, why: str, suggestion: str
) -> None:
    with pytest.raises(NameRefused) as refused:
        check_name(name)
    assert why in refused.value.why
    assert refused.value.suggestion == suggestion
    assert suggestion in refused.value.fix
