"""Masked fields, and everything that is said about them."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from echo_core.message import BaseMessage, decode, encode
from echo_core.runtime.message_history.masking import MASKED, Masks


def masked(data: Any, *masks: str) -> tuple[Any, list[str]]:
    message, places = Masks(masks).masked(BaseMessage(source="s", data=data))
    return message.data, places


def test_a_name_is_masked_wherever_it_is_in_either_case() -> None:
    data = {"token": 1, "deep": [{"Token": {"a": 2}}, "token"], "tokens": 3}
    assert masked(data, "token") == (
        {"token": MASKED, "deep": [{"Token": MASKED}, "token"], "tokens": 3},
        ["token", "deep.Token"],
    )


def test_a_path_is_masked_where_a_path_ends_with_it() -> None:
    data = {"user": {"email": "a", "name": "b"}, "email": "c", "users": [{"user": {"email": "d"}}]}
    assert masked(data, "user.email")[0] == {
        "user": {"email": MASKED, "name": "b"},
        "email": "c",
        "users": [{"user": {"email": MASKED}}],
    }


def test_a_mask_may_be_a_shape_of_names() -> None:
    assert masked({"a_key": 1, "b": {"c": 2}}, "*_key", "b.?")[0] == {"a_key": MASKED, "b": {"c": MASKED}}


def test_without_a_mask_that_fits_the_message_is_the_same() -> None:
    message = BaseMessage(source="s", data={"a": b"bytes"})
    assert Masks(["b"]).masked(message) == (message, [])
    assert Masks([]).masked(message)[0] is message


class Person(msgspec.Struct):
    name: str
    email: str


def test_fields_of_structs_are_masked_too() -> None:
    assert masked({"person": Person("Ann", "a@b.c")}, "email")[0] == {
        "person": {"name": "Ann", "email": MASKED}
    }


def test_what_cannot_be_looked_into_is_masked_as_a_whole() -> None:
    assert masked({"a": object()}, "b") == (MASKED, [""])


@pytest.mark.parametrize("secret", ["hunter22", 12345, 1.5e10])
def test_text_about_a_message_does_not_hold_what_is_masked(secret: Any) -> None:
    message = BaseMessage(source="s", data={"user": [{"password": secret}], "text": "hello"})
    text = Masks(["password"]).masked_text(f"bad password {secret} in hello", message)
    assert text == f"bad password {MASKED} in hello"


LEAVES = st.text(min_size=8, max_size=12) | st.integers(-(2**63), 2**63)
DATA = st.recursive(
    st.dictionaries(st.sampled_from(("a", "b", "secret")), LEAVES, max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(("a", "b", "secret")), inner, max_size=3)
    ),
    max_leaves=20,
)


def fields(value: Any, path: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], Any]]:
    """Every field, slowly."""
    if isinstance(value, dict):
        return [
            entry
            for key, item in value.items()
            for entry in [((*path, key), item), *fields(item, (*path, key))]
        ]
    if isinstance(value, list):
        return [entry for item in value for entry in fields(item, path)]
    return []


@given(data=DATA)
def test_no_masked_field_is_left_and_no_other_is_touched(data: Any) -> None:
    message = decode(encode(BaseMessage(source="s", data=data)))
    found, places = Masks(["secret"]).masked(message)
    for path, value in fields(found.data):
        assert (value == MASKED) or path[-1] != "secret"
    kept = [(path, value) for path, value in fields(data) if "secret" not in path]
    assert [path for path, _ in kept] == [path for path, _ in fields(found.data) if "secret" not in path]
    assert bool(places) == any("secret" in path for path, _ in fields(data))
