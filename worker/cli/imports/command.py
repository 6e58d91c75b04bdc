"""``import``: check the files, tell what would happen, send on demand, compare what the ledger has."""

import sys
from collections import Counter as Tally
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any

import click

from schemas import ImportAccount, Reply, Status
from schemas.fields import parse_rfc3339
from worker.bootstrap import Application, utc_now
from worker.cli.application import sender_of, with_application
from worker.cli.imports.accounts import Form, ImportFiles, Prepared
from worker.cli.imports.publishing import WINDOW, ImportPublisher
from worker.cli.imports.sums import NAMES, differences, posted_sums, sums_of
from worker.cli.options import as_json
from worker.cli.output import progress, show_json, show_table
from worker.cli.reply_link import reply_link
from worker.cli.text import printable
from worker.core import Conflict
from worker.core.replies import conflict_text, message_for
from worker.ledger.queries import snapshot
from worker.ledger.queries.imports import foreseen, posted_imports
from worker.ledger.store import Ledger

_CHUNK = 500
#: Problems, refusals and differences that are shown; the others are counted.
_SHOWN = 20

_FILE = click.Path(path_type=Path, dir_okay=False)


class _Expectation(click.ParamType[tuple[str, int], str]):
    name = "name=number"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, int]:
        """Return the name and the number of a control total."""
        if isinstance(value, tuple):
            return value
        name, _, number = str(value).partition("=")
        if name not in NAMES:
            self.fail(f"{name!r} is no sum; known are {', '.join(NAMES)}", param, ctx)
        try:
            return name, int(number)
        except ValueError:
            self.fail(f"{number!r} is no whole number", param, ctx)


class _Moment(click.ParamType[datetime, str]):
    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        """Return an RFC 3339 time: it must mean the same whenever the command runs again."""
        try:
            return parse_rfc3339(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


@dataclass(slots=True)
class _Findings:
    """Lines about what is wrong: the first ones, and how many there are in all."""

    title: str
    first: list[str] = field(default_factory=list)
    count: int = 0

    def add(self, text: str) -> None:
        self.count += 1
        if len(self.first) < _SHOWN:
            self.first.append(text)

    def show(self) -> None:
        for text in self.first:
            click.echo(printable(text), err=True)
        if self.count > len(self.first):
            click.echo(f"… and {self.count - len(self.first)} more {self.title}", err=True)


@dataclass(slots=True)
class _Report:
    """Everything that the command tells."""

    expected: Mapping[str, int]
    files: Tally[str] = field(default_factory=Tally)
    ledger: Tally[str] | None = None
    foreseen: Tally[str] = field(default_factory=Tally)
    replies: Tally[str] | None = None
    problems: _Findings = field(default_factory=lambda: _Findings("problems"))
    refused: _Findings = field(default_factory=lambda: _Findings("refusals"))
    differing: _Findings = field(default_factory=lambda: _Findings("differences"))

    @property
    def unexpected(self) -> list[str]:
        """Return the control totals that the files don't have."""
        return [
            f"{name} is {self.files[name]}, and {number} is expected: the difference is "
            f"{self.files[name] - number}"
            for name, number in self.expected.items()
            if self.files[name] != number
        ]

    @property
    def is_clean(self) -> bool:
        """True where nothing speaks against the import, or nothing went wrong with it."""
        found = self.problems.count + self.refused.count + self.differing.count
        return not found and not self.unexpected


@click.command("import")
@click.argument("accounts", type=_FILE)
@click.option("--lots", type=_FILE, help="Credit that is left; without it all of a balance is one lot.")
@click.option("--payments", type=_FILE, help="Payments that may be refunded or disputed later.")
@click.option("--quotas", type=_FILE, help="Used quotas of the present period.")
@click.option(
    "--as-of",
    type=_Moment(),
    required=True,
    metavar="TIME",
    help="Time of the export, such as 2026-11-22T10:15:00Z; the same whenever the import is run again.",
)
@click.option(
    "--prefix", default="import/", show_default=True, help="References are this and the id of the user."
)
@click.option(
    "--expect",
    "expected",
    type=_Expectation(),
    multiple=True,
    metavar="NAME=NUMBER",
    help=f"Control total; give it for any of {', '.join(NAMES)}.",
)
@click.option("--yes", is_flag=True, help="Send the accounts; without it nothing changes.")
@click.option("--partial", is_flag=True, help="With --yes, send the others where some would be refused.")
@click.option(
    "--attempt", type=int, default=1, show_default=True, help="A higher one has rejections judged anew."
)
@click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(0, 3_600),
    default=60.0,
    show_default=True,
    help="Seconds to wait for the next reply.",
)
@with_application("broker_url", "database_url", "catalog")
@as_json
def import_command(
    application: Application,
    *,
    accounts: Path,
    lots: Path | None,
    payments: Path | None,
    quotas: Path | None,
    as_of: datetime,
    prefix: str,
    expected: tuple[tuple[str, int], ...],
    yes: bool,
    partial: bool,
    attempt: int,
    timeout_s: float,
    as_json: bool,
) -> None:
    """Move accounts from another system: check CSV files, send them, compare the sums.

    Without --yes nothing changes: the files are checked as a worker checks them, the ledger is asked what it
    would refuse, and the sums are shown. With --yes each account goes through the queue as account.import,
    and afterwards what the ledger posted is compared with the files. Run again after an interruption: what is
    there counts once. Exit 0 where all is well, 1 where something differs or is refused.

    \b
    Columns, in brackets what may be left out (UTF-8, commas, a header):
      ACCOUNTS    user_id, tier, opened_at, balance [anchor (else opened_at), allocated,
                  purchased, bonus, refunded, adjusted, used, expired, reversed]
      --lots      user_id, source, tokens [granted, expires_at, priority,
                  payment_reference_id]
      --payments  user_id, reference_id, amount_minor, currency, package_id, tokens,
                  paid_at [bonus_tokens, provider]
      --quotas    user_id, meter, used
    Times are such as 2026-11-22T10:15:00Z.
    """
    application.require_usable_schema()
    form = Form(
        as_of,
        prefix,
        attempt,
        application.policy_of_commands.limits,
        Ledger(application.engine).known_ids,
        utc_now(),
    )
    files = ImportFiles(accounts, {"lots": lots, "payments": payments, "quotas": quotas}, form)
    report = _Report(dict(expected))
    try:
        for problem in files.read():
            report.problems.add(str(problem))
        wanted = list(_checked(application, files, report))
        may_send = (
            not report.problems.count and not report.unexpected and (partial or not report.refused.count)
        )
        if yes and may_send:
            _send(application, files, wanted, report, timeout_s)
            _compare(application, files, report)
    finally:
        files.close()
    _show(report, is_sent=yes and may_send, as_json=as_json)
    sys.exit(0 if report.is_clean else 1)


def _checked(application: Application, files: ImportFiles, report: _Report) -> Iterator[int]:
    """Yield the lines of the accounts that the ledger would apply now; add all else to the report."""
    with progress("checking", files.count) as bar, snapshot(application.engine) as connection:
        for chunk in _chunks(files.commands()):
            commands = []
            for one in chunk:
                if one.problem is not None:
                    report.problems.add(str(one.problem))
                elif one.command is not None:
                    report.files.update(sums_of(one.command))
                    commands.append((one.line, one.command))
            answers = foreseen(
                connection, [command for _, command in commands], utc_now(), application.catalog
            )
            for (line, command), answer in zip(commands, answers, strict=True):
                if isinstance(answer, Conflict):
                    report.foreseen["refused"] += 1
                    report.refused.add(_about(command, f"the reference {conflict_text(answer)}"))
                elif not answer.outcome.is_applied:
                    report.foreseen["refused"] += 1
                    report.refused.add(_about(command, message_for(answer.outcome)))
                elif answer.duplicate:
                    report.foreseen["done"] += 1
                else:
                    report.foreseen["new"] += 1
                    yield line
            bar.advance(bar.task_ids[0], len(chunk))


def _send(
    application: Application, files: ImportFiles, lines: list[int], report: _Report, timeout_s: float
) -> None:
    """Publish the accounts of these lines, and count the replies."""
    replies = report.replies = Tally()
    if not lines:
        return
    chosen = set(lines)
    commands = (one.command for one in files.commands() if one.command is not None and one.line in chosen)
    with progress("importing", len(lines)) as bar, reply_link(application, WINDOW) as (link, queue):

        def count(command: ImportAccount, reply: Reply) -> None:
            bar.advance(bar.task_ids[0])
            replies["duplicate" if reply.duplicate else str(reply.status)] += 1
            if reply.status is not Status.APPLIED:
                report.refused.add(_about(command, reply.message))

        sender, partitions = sender_of(application), application.settings.partitions
        ImportPublisher(link, queue, sender, timeout_s, count, partitions).send(commands)


def _compare(application: Application, files: ImportFiles, report: _Report) -> None:
    """Compare what the ledger posted of every account with the files."""
    ledger = report.ledger = Tally()
    with progress("comparing", files.count) as bar, snapshot(application.engine) as connection:
        for chunk in _chunks(files.commands()):
            commands = [one.command for one in chunk if one.command is not None]
            posted = posted_imports(connection, commands)
            for command in commands:
                own = posted.get(command.reference_id)
                for text in differences(command, own):
                    report.differing.add(_about(command, text))
                if own is not None:
                    ledger.update(posted_sums(own))
            bar.advance(bar.task_ids[0], len(chunk))


def _chunks(prepared: Iterable[Prepared]) -> Iterator[list[Prepared]]:
    left = iter(prepared)
    while chunk := list(islice(left, _CHUNK)):
        yield chunk


def _about(command: ImportAccount, text: str) -> str:
    return f"user {command.user_id}: {text}"


def _show(report: _Report, *, is_sent: bool, as_json: bool) -> None:
    for findings in (report.problems, report.refused, report.differing):
        findings.show()
    for text in report.unexpected:
        click.echo(text, err=True)
    if as_json:
        show_json(_as_json(report))
        return
    columns = [
        "sum",
        "files",
        *(["expected"] if report.expected else []),
        *(["ledger"] if report.ledger else []),
    ]
    rows = []
    for name in NAMES:
        row: list[Any] = [name, report.files[name]]
        if report.expected:
            row.append(report.expected.get(name))
        if report.ledger:
            row.append(report.ledger.get(name))
        rows.append(row)
    show_table("import", columns, rows)
    click.echo(", ".join(f"{report.foreseen[name]} {name}" for name in ("new", "done", "refused")))
    if report.replies is not None:
        counted = ", ".join(f"{number} {name}" for name, number in sorted(report.replies.items()))
        click.echo(f"sent: {counted or 'nothing'}; {report.differing.count} differences")
    elif not is_sent:
        click.echo("nothing was sent" + ("; --yes sends it" if report.is_clean else ""))


def _as_json(report: _Report) -> dict[str, Any]:
    def found(findings: _Findings) -> dict[str, Any]:
        return {"count": findings.count, "first": findings.first}

    return {
        "files": {name: report.files[name] for name in NAMES},
        "expected": dict(report.expected),
        "unexpected": report.unexpected,
        "foreseen": {name: report.foreseen[name] for name in ("new", "done", "refused")},
        "problems": found(report.problems),
        "refused": found(report.refused),
        "sent": None if report.replies is None else dict(report.replies),
        "ledger": None if report.ledger is None else dict(report.ledger),
        "differences": found(report.differing),
    }
