"""Seeded run of every fault under load: ``python -m tests.faults.chaos --seed 7 --minutes 3``.

Workers and schedulers under mixed load meet faults of servers, networks and processes in an order that the
seed decides. Each fault is undone, and then every message published until then must be answered. At the end
the whole run is reconciled.
"""

import random
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from time import monotonic

import click

from tests.support.limited_postgres import SmallDisk, Standby, create_small, read_only, url_of_both
from tests.support.load_scenario import LoadScenario, load_scenario, new_database, new_vhost, through
from tests.support.mixed_messages import MANY_USERS
from tests.support.postgres_server import Postgres, PostgresAddress
from tests.support.private_server import StopMode
from tests.support.process_group import Member
from tests.support.rabbit_client import vhost_of
from tests.support.rabbitmq_management import ManagementError
from tests.support.rabbitmq_server import RabbitMQ
from tests.support.reconciliation import Differences
from tests.support.tcp_proxy import Proxy
from tests.support.waiting import past
from worker.settings import load_settings

CONSUMER_TIMEOUT_S, DATABASE_TIMEOUT_S = 10, 5
PACE, DISK_MB = 200.0, 512
#: Exit code noted for a process that ended with 0 without being asked to.
_ENDED_BY_ITSELF = -1
#: Longest wait for the replies after a fault. A broker's connection that hangs costs two heartbeats.
RECOVERY_MAX_S = 150.0
MODES: tuple[StopMode, ...] = ("fast", "immediate")
VARIABLES = {
    "BILLING_CONSUMER_TIMEOUT_S": str(CONSUMER_TIMEOUT_S),
    "BILLING_DATABASE_TIMEOUT_S": str(DATABASE_TIMEOUT_S),
}


class FailoverPair:
    """A primary and its standby, each behind a proxy of its own; ``fail_over`` swaps them."""

    def __init__(self) -> None:
        self.disk, self._spare = SmallDisk(DISK_MB), SmallDisk(DISK_MB)
        self.primary: Postgres = Postgres.start()
        self.disk.serve(self.primary)
        self.url = new_database(self.primary.address, partial(create_small, self.primary))
        self._name = self.url.rpartition("/")[2]
        self._attach()
        addresses = self.primary.address, self.standby.address
        self._proxies = [Proxy(address.port) for address in addresses]
        seen = [_behind(proxy, address) for proxy, address in zip(self._proxies, addresses, strict=True)]
        self.seen = url_of_both(seen[0], seen[1], self._name)

    @property
    def proxies(self) -> list[Proxy]:
        """The proxies of both."""
        return self._proxies

    def fail_over(self, wait: Callable[[], None]) -> None:
        """Freeze the primary, promote the standby, resume the old primary for a while, replace it.

        Nothing is committed that the standby doesn't have: an acknowledged message is never lost.
        """
        self.standby.bind()
        old, disk = self.primary, self.disk
        wait()  # commits that began without the standby are over
        self.standby.catch_up()
        old.pause()
        try:
            wait()
            self.standby.promote()
            self.primary, self.disk = self.standby, self._spare
            self.url = self.primary.address.url(self._name)
            wait()
        finally:
            old.unpause()
        wait()
        old.close()
        disk.close()
        self._spare = SmallDisk(DISK_MB)
        self._attach()
        self._proxies.reverse()
        self._proxies[1].target = self.standby.address.port

    def close(self) -> None:
        """End proxies, servers and disks, proxies first."""
        for proxy in self._proxies:
            proxy.close()
        self.standby.close()
        self.primary.close()
        self.disk.close()
        self._spare.close()

    def _attach(self) -> None:
        self.standby = Standby.of(self.primary, (self.disk, self._spare))


def _behind(proxy: Proxy, address: PostgresAddress) -> PostgresAddress:
    return PostgresAddress(address.host, proxy.port, address.user, address.password)


@dataclass
class FaultTargets:
    """Servers, proxies and processes that faults hit."""

    under: LoadScenario
    databases: FailoverPair
    rabbitmq: RabbitMQ
    broker_proxy: Proxy
    rng: random.Random
    workers: int

    def lasts(self, least: float, most: float) -> None:
        """Let the load go on for between ``least`` and ``most`` seconds."""
        self.under.lasts(self.rng.uniform(least, most))

    def any_worker(self) -> Member:
        """Return one of the running workers."""
        _restart_ended(self)
        return self.rng.choice(self.under.processes.running())


def worker_killed(targets: FaultTargets) -> None:
    """SIGKILL of one worker; another one is started."""
    targets.under.replace(targets.any_worker())


def all_workers_killed(targets: FaultTargets) -> None:
    """SIGKILL of all workers at once, several times."""
    for _ in range(targets.rng.randint(1, 4)):
        for member in targets.under.processes.running():
            targets.under.replace(member)
        targets.lasts(0.5, 3)


def worker_restarted(targets: FaultTargets) -> None:
    """SIGTERM of one worker, which must end with 0; another one is started."""
    member = targets.any_worker()
    code = member.stop()
    targets.under.ended.append(code)
    targets.under.processes.start(*member.arguments)


def scheduler_killed(targets: FaultTargets) -> None:
    """SIGKILL of a scheduler, which drains dead letters too; another one is started."""
    targets.under.replace(targets.rng.choice(targets.under.processes.running("scheduler")))


def connections_closed_by_broker(targets: FaultTargets) -> None:
    """Management API closes all connections, the producer's too."""
    vhost = vhost_of(load_settings(broker_url=targets.under.broker_url))
    for connection in targets.rabbitmq.management.list_connections(vhost):
        with suppress(ManagementError):
            targets.rabbitmq.management.close_connection(connection.name)


def connections_reset(targets: FaultTargets) -> None:
    """Every connection to the broker or to the database is reset, several times."""
    proxies = targets.rng.choice([[targets.broker_proxy], targets.databases.proxies])
    for _ in range(targets.rng.randint(1, 4)):
        for proxy in proxies:
            proxy.reset()
        targets.lasts(0.2, 2)


def broker_restarted(targets: FaultTargets) -> None:
    """The broker is stopped or killed and started again."""
    targets.rabbitmq.restart(targets.rng.choice(MODES))


def broker_frozen(targets: FaultTargets) -> None:
    """SIGSTOP of the broker."""
    targets.rabbitmq.pause()
    try:
        targets.lasts(2, 20)
    finally:
        targets.rabbitmq.unpause()


def broker_connections_hang(targets: FaultTargets) -> None:
    """Connections to the broker become half-open; new ones pass."""
    targets.broker_proxy.hang()
    targets.lasts(0.5, 3)
    targets.broker_proxy.flow()


def database_restarted(targets: FaultTargets) -> None:
    """The database is stopped or killed, and started again some seconds later."""
    targets.databases.primary.stop(targets.rng.choice(MODES))
    try:
        targets.lasts(1, 14)
    finally:
        targets.databases.primary.resume()


def database_frozen(targets: FaultTargets) -> None:
    """SIGSTOP of the database."""
    targets.databases.primary.pause()
    try:
        targets.lasts(1, 14)
    finally:
        targets.databases.primary.unpause()


def database_fails_over(targets: FaultTargets) -> None:
    """The primary hangs, its standby is promoted, the old primary resumes."""
    targets.databases.fail_over(lambda: targets.lasts(1, 3))
    targets.under.ledger_url = targets.databases.url


def database_read_only(targets: FaultTargets) -> None:
    """The database takes no writes; a worker is started again meanwhile."""
    with read_only(targets.databases.primary):
        targets.lasts(1, 6)
        worker_restarted(targets)
        targets.lasts(1, 6)


def database_full(targets: FaultTargets) -> None:
    """The disk of the database is full; a worker is started again meanwhile."""
    targets.databases.disk.fill()
    try:
        targets.lasts(1, 6)
        worker_restarted(targets)
        targets.lasts(1, 6)
    finally:
        targets.databases.disk.free()


def database_connections_hang(targets: FaultTargets) -> None:
    """Connections to the database become half-open; new ones pass."""
    for proxy in targets.databases.proxies:
        proxy.hang()
    targets.lasts(0.5, 3)
    for proxy in targets.databases.proxies:
        proxy.flow()


def network_slow(targets: FaultTargets) -> None:
    """Delay of each piece of data, to and from both servers."""
    proxies = [targets.broker_proxy, *targets.databases.proxies]
    for proxy in proxies:
        proxy.delay(0.02)
    targets.lasts(2, 8)
    for proxy in proxies:
        proxy.flow()


Fault = Callable[[FaultTargets], None]

PROCESS_FAULTS: tuple[Fault, ...] = (worker_killed, all_workers_killed, worker_restarted, scheduler_killed)
FAULTS: tuple[Fault, ...] = (
    *PROCESS_FAULTS,
    connections_closed_by_broker,
    connections_reset,
    broker_restarted,
    broker_frozen,
    broker_connections_hang,
    database_restarted,
    database_frozen,
    database_fails_over,
    database_read_only,
    database_full,
    database_connections_hang,
    network_slow,
)


def order_of(rng: random.Random) -> Iterator[tuple[Fault, Fault | None]]:
    """Yield faults without end: each once before any comes again, some with a process fault right after."""
    while True:
        for fault in rng.sample(FAULTS, len(FAULTS)):
            yield fault, rng.choice(PROCESS_FAULTS) if rng.random() < 0.3 else None


@dataclass
class FaultStatistics:
    """Statistics of one kind of fault."""

    times: int = 0
    under_way: int = 0
    recovery_s: float = 0.0

    def add(self, under_way: int, recovery_s: float) -> None:
        """Count one more time; keep the maximum of the other two."""
        self.times += 1
        self.under_way = max(self.under_way, under_way)
        self.recovery_s = max(self.recovery_s, recovery_s)


@dataclass
class Chaos:
    """One run: its seed, the seconds in which faults begin, and its results."""

    seed: int
    seconds: float
    workers: int = 3
    log: Callable[[str], object] = print
    lines: dict[str, FaultStatistics] = field(default_factory=dict)

    def run(self) -> Differences:
        """Run it and return the differences. Raises AssertionError where something never recovers."""
        # The order of faults has a random source of its own, so that it depends on the seed alone.
        faults = order_of(random.Random(self.seed))
        with _targets(self.seed, self.workers) as targets:
            over = past(self.seconds)
            while not over():
                self._apply(targets, *next(faults))
            self.log("the last fault is undone: waiting for every reply")
            found = targets.under.reconcile(patience_s=RECOVERY_MAX_S)
            codes = [code for code in targets.under.ended if code]
            self.log(
                f"published: {len(targets.under.producer.published)}; {found}; exit codes not 0: {codes}"
            )
            if not found.is_clean or codes:
                self.log(_last_lines(targets.under))
                raise AssertionError(str(found) + f"; exit codes not 0: {codes}")
            return found

    def _apply(self, targets: FaultTargets, fault: Fault, also: Fault | None) -> None:
        name = fault.__name__.replace("_", " ")
        and_also = "" if also is None else f" + {also.__name__.replace('_', ' ')}"
        began = monotonic()
        self.log(f"{name}{and_also} …")
        fault(targets)
        if also is not None:
            also(targets)
        _restart_ended(targets)
        under_way = targets.under.under_way()
        try:
            recovery_s = targets.under.recovers(patience_s=RECOVERY_MAX_S)
        except AssertionError:
            self.log(f"{name}: never recovers from it, {targets.under.under_way()} under way")
            self.log(_last_lines(targets.under))
            raise
        self.lines.setdefault(name, FaultStatistics()).add(under_way, max(recovery_s, 0.0))
        self.log(
            f"{name}: {monotonic() - began:.1f} s in all, "
            f"{under_way} under way, recovered {recovery_s:.1f} s after it"
        )

    def table(self) -> str:
        """Return a table of the faults: times, most messages under way, longest recovery."""
        rows = [("fault", "times", "messages under way", "longest recovery")]
        rows += [
            (name, str(line.times), str(line.under_way), f"{line.recovery_s:.1f} s")
            for name, line in sorted(self.lines.items())
        ]
        return "\n".join("{:<30} | {:>5} | {:>18} | {:>16}".format(*row) for row in rows)


def _restart_ended(targets: FaultTargets) -> None:
    """Start again each process that ended by itself, and note its exit code: no process may do so."""
    for member in list(targets.under.processes.members):
        code = member.process.poll()
        if code is not None and not member.was_ended:
            member.was_ended = True
            targets.under.ended.append(code or _ENDED_BY_ITSELF)
            targets.under.processes.start(*member.arguments)


def _last_lines(under: LoadScenario) -> str:
    return "\n".join(line for member in under.processes.members for line in member.log.splitlines()[-6:])


@contextmanager
def _targets(seed: int, workers: int) -> Iterator[FaultTargets]:
    with ExitStack() as parts:
        folder = Path(parts.enter_context(tempfile.TemporaryDirectory(prefix="billing-chaos-")))
        rabbitmq = parts.enter_context(RabbitMQ.start(consumer_timeout_s=CONSUMER_TIMEOUT_S))
        databases = FailoverPair()
        parts.callback(databases.close)
        broker_url = new_vhost(rabbitmq)
        broker_proxy = parts.enter_context(Proxy(rabbitmq.address.port))
        under = parts.enter_context(
            load_scenario(
                folder,
                broker_url=broker_url,
                database_url=databases.url,
                seen=(through(broker_proxy, broker_url), databases.seen),
                variables=VARIABLES,
                seed=seed,
                pace=PACE,
                users=MANY_USERS,
            )
        )
        under.starts(workers=workers, others=(("scheduler",), ("scheduler",)))
        yield FaultTargets(under, databases, rabbitmq, broker_proxy, random.Random(seed + 1), workers)


@click.command()
@click.option("--seed", type=int, help="Decides the faults, their order and the messages; drawn if left out.")
@click.option("--minutes", type=float, default=3.0, show_default=True, help="How long faults begin.")
@click.option("--workers", type=click.IntRange(1, 8), default=3, show_default=True)
def main(seed: int | None, minutes: float, workers: int) -> None:
    """Mix every fault under load. Exit 0 only if nothing was lost, doubled, unanswered or wrongly refused."""
    seed = random.randrange(10**6) if seed is None else seed
    began = monotonic()
    log = partial(_log, began)
    log(f"seed {seed}, {minutes:g} minutes, {workers} workers")
    chaos = Chaos(seed, minutes * 60, workers, log)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that servers and mounts are removed then too
    try:
        chaos.run()
    except AssertionError as error:
        click.echo(chaos.table())
        click.echo(f"seed {seed}: {error}")
        sys.exit(1)
    click.echo(chaos.table())
    click.echo(f"seed {seed}: nothing lost, doubled, unanswered or wrongly refused; the audit is clean")


def _log(began: float, line: str) -> None:
    click.echo(f"{monotonic() - began:7.1f} s  {line}")


if __name__ == "__main__":
    main()
