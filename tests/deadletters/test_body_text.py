"""Bodies formatted for people: only where formatting hides nothing, and only as much as fits a page."""

import json

import pytest

from worker.cli.dead_letters.bodies import readable
from worker.deadletters.body_text import editable, pretty_json


def test_json_is_set_out_and_means_the_same() -> None:
    body = b'{"a":[1,2.5,"\\u0000 \xc3\xa4"],"b":null}'
    pretty = pretty_json(body)
    assert pretty is not None
    assert pretty.splitlines()[0] == "{"
    assert json.loads(pretty) == json.loads(body)
    assert editable(body) == pretty


@pytest.mark.parametrize(
    "body",
    [
        b'{"a":1,"a":2}',
        b'{"a":1.50}',
        b"[-0]",
        b"\xef\xbb\xbf{}",
        "{}".encode("utf-16"),
        b"[" * 100 + b"]" * 100,
        b"[" * 100_000,
    ],
    ids=["a name twice", "another number", "minus zero", "a mark in front", "UTF-16", "nested", "too deep"],
)
def test_body_that_would_look_different_is_not_formatted(body: bytes) -> None:
    assert pretty_json(body) is None
    assert readable(body) != ""


@pytest.mark.parametrize("body", [b"line\r\nline", b"\0", b"\xff"])
def test_body_that_an_editor_would_change_is_not_editable(body: bytes) -> None:
    assert editable(body) is None
