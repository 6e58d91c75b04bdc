"""``dead-letters export`` and ``import``: every byte comes back."""

from pathlib import Path

from tests.cli.console import Cli
from tests.cli.dead_letters.parts import BONUS, worker
from tests.support.rabbit_client import RabbitClient


def test_export_and_import_keep_every_byte(
    cli: Cli, rabbit: RabbitClient, tmp_path: Path, sqlite_template: Path
) -> None:
    rabbit.publish(BONUS, message_id="m-1", headers={"x-trace": "t-1"})
    rabbit.publish(bytes(range(256)), routing_key="usage.deduct")
    worker(cli, 2)
    exported = cli("dead-letters", "export")
    assert len(exported.lines) == 2
    again = cli("dead-letters", "import", "-", stdin=exported.out.encode())
    assert again.out == "added 0, known already 2\n"
    elsewhere = tmp_path / "elsewhere.sqlite3"
    elsewhere.write_bytes(sqlite_template.read_bytes())
    url = f"sqlite:///{elsewhere}"
    added = cli("dead-letters", "import", "-", stdin=exported.out.encode(), BILLING_DATABASE_URL=url)
    assert added.out == "added 2, known already 0\n"
    there = cli("dead-letters", "export", BILLING_DATABASE_URL=url)
    assert there.lines == exported.lines


def test_export_of_an_unknown_dead_letter_empties_no_file(cli: Cli, tmp_path: Path) -> None:
    before = tmp_path / "7.jsonl"
    before.write_text("a letter")
    assert cli("dead-letters", "export", "7", "--output", str(before)).code == 4
    assert before.read_text() == "a letter"


def test_import_names_a_line_that_is_no_dead_letter(cli: Cli) -> None:
    ended = cli("dead-letters", "import", "-", stdin=b'\n{"format": "x"}\n')
    assert ended.code == 1
    assert ended.error.startswith("line 2: number: Field required")
