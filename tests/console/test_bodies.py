"""Readable forms of bodies."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.console.bodies import from_form, hex_dump, readable
from worker.deadletters.body_text import editable


@given(st.binary(max_size=80) | st.text(max_size=80).map(str.encode))
def test_editable_body_comes_back_from_a_form_unchanged(body: bytes) -> None:
    text = editable(body)
    if text is None:
        return
    sent = text.replace("\n", "\r\n")  # as every browser does
    back = from_form(sent)
    assert editable(back) == text
    assert back == body or readable(body).kind == "json"


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"", "empty"),
        (b'{"a": 1}', "json"),
        (b'{"a": 1, "a": 2}', "text"),
        (b"1e2", "text"),
        (b"hello", "text"),
        (b"\x00" * 100, "hex"),
        ("\u202eevil".encode(), "hex"),
        (b"\xff", "hex"),
        (b'{"a":' * 5_000 + b"1", "text"),
        (b"[" * 100 + b"1," * 50_000 + b"1" + b"]" * 100, "text"),  # formatted, it has 20 million spaces
        (b"-0", "text"),
        (b'\xef\xbb\xbf{"a": 1}', "hex"),  # a worker refuses it for its invisible byte order mark
        ('{"a": 1}'.encode("utf-16"), "hex"),
    ],
)
def test_body_is_shown_in_a_form_that_hides_nothing(body: bytes, kind: str) -> None:
    assert readable(body).kind == kind


def test_star_stands_for_repeated_lines_of_a_dump() -> None:
    shown = hex_dump(bytes(64) + b"end").splitlines()
    assert len(shown) == 3
    assert shown[1] == "*"
    assert shown[2].startswith("00000040  65 6e 64")


def test_large_body_is_cut_and_its_omission_counted() -> None:
    shown = readable(b"x" * 200_000)
    assert shown.omitted == 200_000 - 64 * 1024
    assert readable(bytes(256 * 1024)).omitted == 252 * 1024
