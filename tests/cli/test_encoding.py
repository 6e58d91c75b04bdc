"""Bytes that are not UTF-8, in arguments and variables: one line and exit 2, for every command."""

import os
import subprocess
import sys

import pytest

from worker.cli.encoding import encoding_fault


@pytest.mark.parametrize(
    ("arguments", "variables", "fault"),
    [
        ([b"balance", b"caf\xe9"], {}, r"argument 2 is not UTF-8: caf\xe9"),
        ([b"--broker-url=\xff"], {}, r"argument 1 is not UTF-8: --broker-url=\xff"),
        ([b"retry", b"a", b"b\xe9\xe9"], {}, r"argument 3 is not UTF-8: b\xe9\xe9"),
        ([b"\xed\xa0\x80"], {}, r"argument 1 is not UTF-8: \xed\xa0\x80"),
        ([b"balance", "café 😀".encode()], {}, None),
        ([], {b"BILLING_CATALOG": b"caf\xe9"}, "the variable BILLING_CATALOG is not UTF-8"),
        ([], {b"BILLING_\xff": b"x"}, r"the variable BILLING_\xff is not UTF-8"),
        ([], {b"OTHER": b"caf\xe9"}, None),
    ],
)
def test_first_text_that_is_not_utf8_is_named_with_escapes(
    arguments: list[bytes], variables: dict[bytes, bytes], fault: str | None
) -> None:
    decoded = {os.fsdecode(name): os.fsdecode(value) for name, value in variables.items()}
    assert encoding_fault([os.fsdecode(one) for one in arguments], decoded) == fault


def test_secret_in_a_variable_is_not_shown() -> None:
    assert "s3cr3t" not in (encoding_fault([], {"BILLING_BROKER_URL": "s3cr3t\udcff"}) or "")


def test_command_ends_in_one_line_and_exit_2() -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "worker", "dead-letters", "list", "--user", b"caf\xe9"],
        capture_output=True,
        check=False,
    )
    assert (ended.returncode, ended.stdout) == (2, b"")
    assert ended.stderr.splitlines() == [rb"error: argument 4, after --user, is not UTF-8: caf\xe9"]
