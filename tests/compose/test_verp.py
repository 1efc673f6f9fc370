"""Return paths: what is encoded comes back, what was tampered with does not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailerd.compose.verp import LOCAL_LIMIT, ReturnPaths

OLD, NEW = b"o" * 32, b"n" * 32
PATHS = ReturnPaths("bounces.example.org", [NEW, OLD])


@given(st.integers(0, (1 << 63) - 1))
def test_there_and_back_in_any_case(message: int) -> None:
    path = PATHS.encode(message)
    assert PATHS.decode(path) == PATHS.decode(path.upper()) == PATHS.decode(f"<{path}>") == message
    assert len(path.partition("@")[0]) <= LOCAL_LIMIT


@given(st.integers(0, (1 << 63) - 1), st.data())
def test_one_changed_character_is_one_too_many(message: int, data: st.DataObject) -> None:
    local, _, domain = PATHS.encode(message).partition("@")
    place = data.draw(st.integers(0, len(local) - 1))
    other = data.draw(st.sampled_from([c for c in "0123456789abcdefghjkmnpqrstvwxyz-" if c != local[place]]))
    assert PATHS.decode(f"{local[:place]}{other}{local[place + 1 :]}@{domain}") is None


@given(st.text())
def test_anything_else_is_none_of_ours(text: str) -> None:
    assert PATHS.decode(text) is None
    assert PATHS.decode(f"b-{text}@bounces.example.org") is None


def test_keys_rotate() -> None:
    old = ReturnPaths("bounces.example.org", [OLD]).encode(77)
    assert PATHS.decode(old) == 77
    assert ReturnPaths("bounces.example.org", [NEW]).decode(old) is None
    assert ReturnPaths("bounces.example.org", [NEW]).encode(77) == PATHS.encode(77) != old


def test_a_domain_is_signed_too() -> None:
    path = PATHS.encode(5).replace("bounces.example.org", "bounces.example.net")
    assert ReturnPaths("bounces.example.net", [NEW]).decode(path) is None


@pytest.mark.parametrize(
    ("domain", "keys", "said"),
    [
        ("", [OLD], "no domain"),
        ("a@b", [OLD], "no domain"),
        ("example.org", [], "no key"),
    ],
)
def test_wrong_keys_are_named(domain: str, keys: list[bytes], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        ReturnPaths(domain, keys)


@pytest.mark.parametrize("message", [-1, 1 << 63])
def test_no_id(message: int) -> None:
    with pytest.raises(ValueError, match="no id"):
        PATHS.encode(message)
