"""``billing-worker demo``: its options, its servers, and its exit code."""

import os
import random
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any
from uuid import uuid4

import click
from pydantic import SecretStr
from sqlalchemy.engine import URL

from worker.bootstrap import Application, utc_now
from worker.broker import BILLING
from worker.catalog import DEFAULT_CATALOG
from worker.cli.application import reply_sender_of
from worker.cli.options import as_json
from worker.deadletters.models import DeadLetterStatus, StoredDeadLetter
from worker.deadletters.service import DeadLetters
from worker.deadletters.store.filters import DeadLetterFilter
from worker.demo.day import MESSAGES_MIN, day
from worker.demo.noticed import noticed_in
from worker.demo.script import Script
from worker.demo.show import (
    Ended,
    listener,
    show_ended,
    show_ended_as_json,
    show_place,
)
from worker.demo.stage import DemoError, DemoQueues, correlated, stage
from worker.demo.tally import Tally
from worker.demo.trace import trace_script
from worker.errors import ConfigurationError
from worker.ledger.audit import audit
from worker.runtime.logging import configure_logging
from worker.settings import Settings

_MESSAGES = 2_000
_USERS = 200
# The embedded broker takes a millisecond and more a message: with small batches the bar moves steadily.
_EMBEDDED_BATCH = 100


@click.command()
@click.option("--messages", type=click.IntRange(MESSAGES_MIN), help=f"How many.  [{_MESSAGES}]")
@click.option("--seed", type=int, default=1, show_default=True, help="The same seed, the same day.")
@click.option(
    "--trace",
    type=click.Path(path_type=Path),
    metavar="FILE.csv",
    help="Usage from a real trace instead: TIMESTAMP,ContextTokens,GeneratedTokens.",
)
@click.option("--users", type=click.IntRange(1), help=f"Users that share the trace.  [{_USERS}]")
@click.option("--broker-url", help="Play on this broker; with --database-url.")
@click.option("--database-url", help="Play on this database, migrated here; with --broker-url.")
@click.option("--workers", type=click.IntRange(1, 64), default=1, show_default=True, help="Worker processes.")
@click.option(
    "--keep",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Keep the files there: logs and, without servers, ledger and broker.",
)
@as_json
def demo(
    *,
    messages: int | None,
    seed: int,
    trace: Path | None,
    users: int | None,
    broker_url: str | None,
    database_url: str | None,
    workers: int,
    keep: Path | None,
    as_json: bool,
) -> None:
    """See it work: a day's messages in, a true ledger, replies out.

    Needs no server and no configuration: the ledger is a SQLite file and the broker another one, in a
    temporary folder. Settings from the environment don't count here. Exit 0 only if every message has got
    its answer or its dead letter and the audit holds.
    """
    if (broker_url is None) != (database_url is None):
        raise click.UsageError("give --broker-url and --database-url, or neither")
    if trace is None and users is not None:
        raise click.UsageError("--users goes with --trace")
    if trace is not None and messages is not None:
        raise click.UsageError("--messages does not go with --trace: every row is one")
    with _ending_on_sigterm(), _folder(keep) as folder:
        settings = _settings(folder, broker_url, database_url, workers)
        configure_logging(settings.log_level, settings.log_format)
        application = Application(settings, name="billing-worker demo")
        try:
            if trace is None:
                suffix = "" if broker_url is None else f"-{int(utc_now().timestamp()):x}"
                script = _day(application, seed, messages or _MESSAGES, suffix)
            else:
                script = _trace(application, trace, seed, users or _USERS)
            if not as_json:
                show_place(
                    settings, script, None if broker_url is not None else folder, kept=keep is not None
                )
            ended = _played(application, script, folder)
            (show_ended_as_json if as_json else show_ended)(application, script, ended)
        except DemoError as error:
            click.echo(error.log, err=True)
            raise
        finally:
            application.engine.dispose()
    if ended.problems():
        sys.exit(1)


def _day(application: Application, seed: int, messages: int, suffix: str) -> Script:
    rng = random.Random(seed)  # noqa: S311 - a demo's chance, no secret
    return day(rng, utc_now(), application.catalog, messages=messages, suffix=suffix)


def _trace(application: Application, path: Path, seed: int, users: int) -> Script:
    return trace_script(path, seed=seed, users=users, now=utc_now(), catalog=application.catalog)


def _played(application: Application, script: Script, folder: Path) -> Ended:
    """Run the whole demo; returns what the ledger holds after the worker has stopped."""
    run = uuid4().hex[:12]
    acts = correlated(run, (act.messages for act in script.acts))
    tally = Tally({id_: message for act in acts for id_, message in act.items()})
    own = f"{BILLING.replies.name}.{reply_sender_of(application)}"
    queues = DemoQueues(f"{own}.demo-{run}", f"billing.notices.demo-{run}")
    with stage(application, folder, queues) as playing, listener(tally) as listen, _noted_signals() as end:

        def look() -> None:
            listen()
            end.if_asked()

        for act, messages in zip(script.acts, acts, strict=True):
            listen(act.name)
            if (over := tally.holds_end(act.run_out)) is not None:
                playing.wait_until(over, tally, look)
            playing.play(messages, tally, look)
            if not messages.keys() <= tally.replies.keys():
                break
        playing.end(tally)
    tally.file(_dead_letters(application))
    report = audit(application.engine, catalog=application.catalog)
    noticed = noticed_in(application.engine, tally.references())
    return Ended(tally, report, noticed, playing.exit_codes(), playing.seconds())


def _dead_letters(application: Application) -> Iterator[StoredDeadLetter]:
    """Yield all dead letters, after a drain of those that wait."""
    service = DeadLetters(application.engine)
    link = application.link(consume=[BILLING.dead.name])
    try:
        service.drain(link)
    finally:
        link.close()
    yield from service.every_dead_letter(DeadLetterFilter(status=tuple(DeadLetterStatus)))


def _settings(folder: Path, broker_url: str | None, database_url: str | None, workers: int) -> Settings:
    """Return the default settings, whatever the environment says."""
    ledger = URL.create("sqlite", database=str(folder / "ledger.sqlite3"))
    defaults: dict[str, Any] = {name: field.default for name, field in Settings.model_fields.items()}
    own: dict[str, Any] = {
        "broker_url": SecretStr(broker_url or f"sqla+sqlite:///{folder / 'broker.sqlite3'}"),
        "database_url": SecretStr(database_url or ledger.render_as_string()),
        "catalog": DEFAULT_CATALOG,
        "workers": workers,
        "log_level": "WARNING",
    }
    if broker_url is None:
        own["batch_size"] = _EMBEDDED_BATCH
    return Settings.model_construct(**defaults | own)


@contextmanager
def _folder(keep: Path | None) -> Iterator[Path]:
    """An empty folder, removed at the end unless it shall be kept."""
    if keep is not None:
        keep.mkdir(parents=True, exist_ok=True)
        if any(keep.iterdir()):
            raise ConfigurationError(f"{keep} is not empty; name a new folder")
    named = tempfile.TemporaryDirectory(prefix="billing-demo-") if keep is None else nullcontext(str(keep))
    with named as name:
        yield Path(name).resolve()


@contextmanager
def _ending_on_sigterm() -> Iterator[None]:
    """Make SIGTERM unwind like Ctrl-C, so that no process and no file is left behind."""

    def end(number: int, _frame: Any) -> None:
        sys.exit(128 + number)

    with _handled(end, signal.SIGTERM):
        yield


class _End:
    """End requested by a signal; a second signal ends the process at once."""

    def __init__(self) -> None:
        self._number: int | None = None

    def note(self, number: int, _frame: Any) -> None:
        if self._number is not None:
            os._exit(128 + number)
        self._number = number

    def if_asked(self) -> None:
        if self._number is not None:
            sys.exit(128 + self._number)


@contextmanager
def _noted_signals() -> Iterator[_End]:
    """Note Ctrl-C and SIGTERM, which take effect between two looks at the replies.

    Raised in the midst of one, the exception could be lost in a finalizer, or leave a lock behind.
    """
    end = _End()
    with _handled(end.note, signal.SIGINT, signal.SIGTERM):
        yield end
        end.if_asked()


@contextmanager
def _handled(handler: Callable[[int, Any], None], *numbers: signal.Signals) -> Iterator[None]:
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, handler_before in before.items():
            signal.signal(number, handler_before)
