"""``dead-letters edit``: a body mended in an editor or from a file."""

import json
import stat
from pathlib import Path

from tests.cli.console import Cli
from tests.cli.dead_letters.parts import BONUS, replayed, worker
from tests.support.rabbit_client import RabbitClient


def editor(tmp_path: Path, *replacements: tuple[str, str]) -> str:
    """Install an editor that replaces pieces of text."""
    script = tmp_path / "editor"
    edits = "".join(f"s = s.replace({old!r}, {new!r})\n" for old, new in replacements)
    script.write_text(
        "#!/usr/bin/env python3\nimport sys\ns = open(sys.argv[1]).read()\n"
        f"{edits}open(sys.argv[1], 'w').write(s)\n"
    )
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    return str(script)


def test_body_is_mended_in_an_editor_and_then_replayed(
    cli: Cli, rabbit: RabbitClient, tmp_path: Path
) -> None:
    rabbit.publish({**BONUS, "tokenz": 5, "tokens": 500})
    worker(cli)
    mending = editor(tmp_path, (',\n  "tokenz": 5', ""))
    ended = cli("dead-letters", "edit", "1", "--reason", "a typo", "--actor", "eva", EDITOR=mending)
    assert (ended.code, ended.out) == (
        0,
        "dead letter 1 is edited; send it with `billing-worker dead-letters replay 1`\n",
    )
    details = cli("dead-letters", "show", "1", "--json").json
    assert json.loads(details["editedBody"]) == {**BONUS, "tokens": 500}
    assert json.loads(details["body"])["tokenz"] == 5, "the original is kept"
    (edit,) = details["edits"]
    assert (edit["actor"], edit["reason"], edit["before"]) == ("eva", "a typo", details["body"])
    assert replayed(cli, "1").code == 0
    assert cli("balance", "ann", "--json").json["balance"] == 10_500


def test_body_that_a_worker_would_refuse_is_not_saved(cli: Cli, rabbit: RabbitClient, tmp_path: Path) -> None:
    rabbit.publish({**BONUS, "tokenz": 5})
    worker(cli)
    wrong = editor(tmp_path, ('"tokenz": 5', '"token": 5'))
    ended = cli("dead-letters", "edit", "1", "--reason", "a typo", EDITOR=wrong)
    assert ended.code == 1
    assert "at token (unknown_field): The field 'token' is not known; did you mean 'tokens'?" in ended.err
    assert "editedBody" not in cli("dead-letters", "show", "1", "--json").json
    unchecked = cli("dead-letters", "edit", "1", "--reason", "a try", "--unchecked", EDITOR=wrong)
    assert unchecked.code == 0


def test_editor_that_changes_nothing_edits_nothing(cli: Cli, rabbit: RabbitClient, tmp_path: Path) -> None:
    rabbit.publish({**BONUS, "tokenz": 5})
    worker(cli)
    ended = cli("dead-letters", "edit", "1", "--reason", "a look", EDITOR=editor(tmp_path))
    assert (ended.code, ended.err) == (1, "nothing was changed\n")


def test_editor_that_saves_other_bytes_than_utf_8_changes_nothing(
    cli: Cli, rabbit: RabbitClient, tmp_path: Path
) -> None:
    rabbit.publish({**BONUS, "tokenz": 5})
    worker(cli)
    script = tmp_path / "latin"
    script.write_text("#!/bin/sh\nprintf 'caf\\351' > \"$1\"\n")
    script.chmod(0o755)
    ended = cli("dead-letters", "edit", "1", "--reason", "a typo", EDITOR=str(script))
    assert ended.code == 1
    assert "bytes that are not UTF-8: nothing was changed" in ended.error
    assert "editedBody" not in cli("dead-letters", "show", "1", "--json").json


def test_bytes_that_no_editor_keeps_are_mended_from_a_file(
    cli: Cli, rabbit: RabbitClient, tmp_path: Path
) -> None:
    rabbit.publish(b"\xff\x00", routing_key="credit.bonus")
    worker(cli)
    refused = cli("dead-letters", "edit", "1", "--reason", "bytes", EDITOR=editor(tmp_path))
    assert refused.code == 1
    assert "--from-file" in refused.error
    mended = json.dumps({**BONUS, "tokens": 5}).encode()
    ended = cli("dead-letters", "edit", "1", "--reason", "bytes", "--from-file", "-", stdin=mended)
    assert ended.code == 0
    assert cli("dead-letters", "show", "1", "--json").json["editedBody"].encode() == mended
