"""Health checks of an installation: what `billing-worker check` prints and the console shows."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from functools import partial

from worker import __version__
from worker.bootstrap import Application
from worker.broker import BILLING, broker_is_embedded
from worker.broker.partitions import without_partition
from worker.errors import BillingError, ConfigurationError, TransientError
from worker.lanes.lease_status import LeaseStatus
from worker.ledger.durability import durability_of
from worker.ledger.engine import translated_errors
from worker.ledger.form import LedgerForm
from worker.ledger.operator_pauses import OperatorPauses
from worker.ledger.queries import snapshot
from worker.ledger.queries.incidents import overdue_before, waiting_counts
from worker.ledger.queries.tiers import accounts_on_missing_tiers
from worker.ledger.replica import replica_age
from worker.ledger.revisions import current_revision, newest_revision
from worker.ledger.session_settings import MissingSettings, missing_settings, plans_by_key
from worker.messages.reply_queue import ReplyQueueStatus
from worker.runtime.health import CheckResult, Health, HealthCheck, HealthState, run_checks
from worker.settings import given_variables, redacted
from worker.settings_report import changed_settings, unknown_names

#: Time for one check. Servers that are up answer in milliseconds.
_DEADLINE_S = 15.0


#: Name of a check, the place that it looks at, and the check.
Ask = tuple[str, str, Callable[[Application], CheckResult]]


def health_of(
    application: Application, *, deadline_s: float = _DEADLINE_S, with_scans: bool = False
) -> Iterator[Health]:
    """Yield the health of each part of the installation, in the order in which they depend on each other."""
    return run_checks(checks_of(application, with_scans=with_scans), deadline_s)


def checks_of(application: Application, *, with_scans: bool = False) -> Sequence[HealthCheck]:
    """Return all checks; those that read whole tables ``with_scans`` alone.

    Those that need a server which refuses its own check say "unknown".
    """
    settings = application.settings
    asks: list[Ask] = [
        ("settings", "", _settings),
        ("catalog", "", _catalog),
        ("database", redacted(settings.coordinator_url or settings.database_url), _database),
        *_node_asked(application),
        ("schema", "", _schema),
        ("writes", "", _writes),
        ("durability", "", _durability),
        ("session", "", _session),
        *_replica_asked(application),
        ("payments", "", _payments),
        *([("tiers", "", _tiers)] if with_scans else []),
        ("broker", redacted(settings.broker_url), _broker),
        ("senders", "", _senders),
        ("topology", "", _topology),
        ("delivery limits", "", _delivery_limits),
        ("journal", "", _journal),
        ("replies", "", _replies),
        ("readers", "", _readers),
        *_partitions_asked(application),
        ("workers", "", _workers),
        ("paused", "", _paused),
    ]
    return [HealthCheck(name, partial(ask, application), place) for name, place, ask in asks]


def _senders(application: Application) -> CheckResult:
    """Check that not everybody may give credit who may publish."""
    if types := application.policy.credit_from_anyone:
        text = f"anyone who may publish may send {' and '.join(types)}: say in BILLING_SENDERS who may"
        return CheckResult(HealthState.NOTE, text)
    return _ok("rules say who may give credit")


def _ok(text: str) -> CheckResult:
    return CheckResult(HealthState.OK, text)


def _unknown(why: object) -> CheckResult:
    return CheckResult(HealthState.UNKNOWN, str(why))


def _settings(application: Application) -> CheckResult:
    """Check that each variable with our prefix is a setting: a misspelled one changes nothing."""
    environment, lines = given_variables()
    if unknown := unknown_names([*environment, *lines]):
        return CheckResult(HealthState.NOTE, "; ".join(map(str, unknown)))
    count = len(changed_settings(application.settings))
    return _ok(f"{count} differ from the defaults: see `billing-worker config --changed`")


def _tiers(application: Application) -> CheckResult:
    """Check that no account is on a tier that the catalog lacks."""
    try:
        tiers = application.catalog.tiers
        application.require_readable_schema()
        with snapshot(application.scan_engine) as connection:
            found = accounts_on_missing_tiers(connection, tiers, _TIERS_MOST)
    except (ConfigurationError, TransientError):
        return _unknown("the accounts can't be read, or not fast enough; see the lines above")
    if not found:
        return _ok("the catalog has those of all accounts")
    counted = ", ".join(f"{count:,} on {tier!r}" for tier, count in list(found.items())[:_TIERS_SHOWN])
    more = f" and {len(found) - _TIERS_SHOWN} more tiers" if len(found) > _TIERS_SHOWN else ""
    least = "at least " if sum(found.values()) > _TIERS_MOST else ""
    way_out = "put the tiers back, or change the accounts"
    return CheckResult(
        HealthState.NOTE, f"the catalog lacks the tier of accounts: {least}{counted}{more}; {way_out}"
    )


#: Accounts on missing tiers that are counted, and the tiers that are named.
_TIERS_MOST, _TIERS_SHOWN = 10_000, 10


def _catalog(application: Application) -> CheckResult:
    catalog = application.catalog
    return _ok(
        f"{len(catalog.tiers)} tiers, {len(catalog.packages)} packages, {len(catalog.pricing)} pricing rules;"
        f" digest {catalog.short_digest}"
    )


def _database(application: Application) -> CheckResult:
    """Check that the database answers, each of its servers, and that nobody listens on the way."""
    current_revision(application.engine)
    return each_server(application.database_servers(), application.unsafe_way_to_the_database)


def _node_asked(application: Application) -> Iterator[Ask]:
    """Yield the check of the node where batches don't use the coordinator."""
    settings = application.settings
    if settings.coordinator_url is not None:
        yield "node", redacted(settings.database_url), _node


def _node(application: Application) -> CheckResult:
    """Check that the node answers, each of its servers, and is one of the coordinator's."""
    try:
        current_revision(application.engine)
    except (ConfigurationError, TransientError):
        return _unknown("see the line of the database")
    application.require_ledger_of_batches()
    return each_server(application.node_servers(), None)


def each_server(servers: Mapping[str, Callable[[], str]], warning: str | None) -> CheckResult:
    """Return which of several servers answer; one that doesn't will be missed when another one fails."""
    found, silent = [], False
    for name, ask in servers.items() if len(servers) > 1 else ():
        try:
            found.append(f"{name} {ask()}")
        except (TransientError, ConfigurationError) as error:
            silent = True
            found.append(f"{name} does not answer: {error}")
    text = "; ".join([*(found or ["answers"]), *([warning] if warning else [])])
    return CheckResult(HealthState.NOTE if silent or warning else HealthState.OK, text)


def _schema(application: Application) -> CheckResult:
    application.require_usable_schema()
    current, newest = current_revision(application.engine), newest_revision()
    if current == newest:
        return _ok(f"at {newest}")
    return _ok(f"at {current}, which version {__version__} may write, built for {newest}")


def _writes(application: Application) -> CheckResult:
    """Check that the database takes writes: a standby, or a server without disk, still answers."""
    try:
        application.require_usable_schema()
    except BillingError:
        return _unknown("see the lines above")
    application.ledger.probe()
    return _ok("taken")


def _durability(application: Application) -> CheckResult:
    """Check that what is acknowledged outlives a crash, and a failover where there is a standby."""
    try:
        found = durability_of(application.engine)
    except (ConfigurationError, TransientError):
        return _unknown("see the line of the database")
    if found is None:
        return _ok("a commit is on the disk of this machine")
    if (warning := found.warning(servers=len(application.database_servers()))) is not None:
        return CheckResult(HealthState.NOTE, warning)
    return _ok(found.text)


def _session(application: Application) -> CheckResult:
    """Check that a session of the loops has the settings it needs, whoever was to set them."""
    try:
        missing = _missing_settings(application)
    except (ConfigurationError, TransientError) as error:
        return _unknown(error)  # the lines above say that it is bad
    if missing is None:
        return _ok("needs no settings on SQLite")
    way_out = "" if application.settings.session_settings == "role" else _IGNORED
    if missing.needed:
        raise ConfigurationError(f"lacks settings: {way_out}{' '.join(missing.needed)}")
    if missing.advised:
        return CheckResult(HealthState.NOTE, f"may have slow plans: {way_out}{' '.join(missing.advised)}")
    return _ok("has the settings it needs")


_IGNORED = "the server ignores what connections ask for; set BILLING_SESSION_SETTINGS=role, and "


def _missing_settings(application: Application) -> MissingSettings | None:
    engine = application.batch_engine
    if engine.dialect.name == "sqlite":
        return None
    with translated_errors(), engine.connect() as connection:
        is_distributed = application.settings.ledger_form is LedgerForm.DISTRIBUTED
        plans = plans_by_key(distributed=is_distributed)
        return missing_settings(connection, application.needed_settings, plans)


def _replica_asked(application: Application) -> Iterator[Ask]:
    """Yield the check of the replica where one is set."""
    if (url := application.settings.read_database_url) is not None:
        yield "replica", redacted(url), _replica


def _replica(application: Application) -> CheckResult:
    """Check that queries read the replica: one that is too old is left for the primary."""
    replica = application.replica_engine
    assert replica is not None  # noqa: S101 - asked where one is set
    try:
        current_revision(application.engine)
    except (ConfigurationError, TransientError):
        return _unknown("see the line of the database")
    age, most = replica_age(application.engine, replica), application.settings.read_max_lag_s
    if age is None:
        return _unknown("it is behind, and has replayed nothing since it started")
    seconds = age.total_seconds()
    text = "less than 1 s behind" if seconds < 1 else f"{seconds:,.0f} s behind"
    if seconds > most:
        way_out = "queries read the primary; see what holds it up, or raise BILLING_READ_MAX_LAG_S"
        return CheckResult(HealthState.NOTE, f"{text}, more than {most:g} s: {way_out}")
    return _ok(text)


def _broker(application: Application) -> CheckResult:
    """Check that the broker answers, each of its nodes, and that nobody listens on the way."""
    application.link().close()
    return each_server(application.broker_nodes(), application.unsafe_way_to_the_broker)


def _topology(application: Application) -> CheckResult:
    with closing(application.link()) as link:
        topology = application.topology
        differences = link.differences(topology)
        is_compared = bool(differences) or link.can_compare(topology)
    if differences:
        raise ConfigurationError("; ".join(differences))
    if not is_compared:
        return _unknown(
            "all of it is there; to compare it takes the right to configure, which no worker needs"
        )
    number = topology.partitions
    return _ok(f"as it must be, with {number} partitions" if number else "as it must be")


def _journal(application: Application) -> CheckResult:
    """Check that commands are kept for a recovery; whether its limits suffice only an operator knows."""
    if broker_is_embedded(application.settings.broker_url.get_secret_value()):
        return _ok("none on an embedded broker")
    try:
        with closing(application.link()) as link:
            is_there = link.has_journal(BILLING)
    except (ConfigurationError, TransientError) as error:
        return _unknown(error)  # the lines above say that it is bad
    if is_there:
        return _ok(f"kept in {BILLING.journal}")
    return CheckResult(
        HealthState.NOTE,
        "none: a restored ledger loses what came since the backup; see `topology declare --journal`",
    )


def _delivery_limits(application: Application) -> CheckResult:
    """Check the broker's delivery limits; 4.0 and later drop a message after 20 returns by default."""
    if broker_is_embedded(application.settings.broker_url.get_secret_value()):
        return _ok("none on an embedded broker")
    least = application.topology.least_delivery_limits()
    try:
        limits = application.management.delivery_limits(*least)
    except (ConfigurationError, TransientError) as error:
        return _unknown(error)
    low = {queue: limit for queue, limit in limits.items() if limit is not None and limit < least[queue]}
    found = ", ".join(f"{queue} {limit} (at least {least[queue]})" for queue, limit in low.items())
    way_out = "set the policies that `billing-worker topology declare` prints"
    if low.keys() & {BILLING.dead.name, BILLING.replies.name, BILLING.held.name}:
        raise ConfigurationError(f"messages would be dropped for being looked at: {found}; {way_out}")
    if low:
        return CheckResult(
            HealthState.NOTE,
            f"restarts and lost connections would dead-letter good messages: {found}; {way_out}",
        )
    return _ok("high enough")


def _replies(application: Application) -> CheckResult:
    """Check that somebody reads the default reply queue, where much waits there."""
    try:
        with closing(application.link()) as link:
            status = ReplyQueueStatus.of(link, application.settings.reply_queue)
    except (ConfigurationError, TransientError) as error:
        return _unknown(error)  # the lines above say that it is bad
    return CheckResult(HealthState.NOTE if status.is_unread else HealthState.OK, status.text)


def _readers(application: Application) -> CheckResult:
    """Check that somebody answers queries; an app that asks none needs no reader."""
    try:
        with closing(application.link()) as link:
            count = link.consumers(BILLING.queries.name)
    except (ConfigurationError, TransientError) as error:
        return _unknown(error)  # the lines above say that it is bad
    found = f"{BILLING.queries.name} has {_consumers(count)}"
    if count == 0:
        return CheckResult(HealthState.NOTE, f"{found}: queries expire until `billing-worker readers` runs")
    return _ok(found)


#: Queues of work that are listed one by one; those of partitions are more.
_SHOWN_MAX = 3


def _workers(application: Application) -> CheckResult:
    """Check the consumers of the queues of work, and the messages that wait there."""
    try:
        queues = _queues_of_work(application)
    except (ConfigurationError, TransientError) as error:
        return _unknown(error)  # the lines above say that it is bad
    found = ", ".join(f"{name} has {_consumers(count)}, {depth} waiting" for name, count, depth in queues)
    found = found if len(queues) <= _SHOWN_MAX else _in_short(queues)
    paused = _paused_queues(application)
    if any(count == 0 and without_partition(name) in paused for name, count, _ in queues):
        return CheckResult(HealthState.NOTE, f"{found}; what is paused takes nothing: see the line below")
    if any(count == 0 and depth for _, count, depth in queues):
        raise BillingError(f"{found}: messages wait and nobody consumes them; start a worker, see its log")
    if any(count == 0 for _, count, _ in queues):
        return CheckResult(HealthState.NOTE, f"{found}: a queue without a consumer waits until a worker runs")
    return _ok(found)


def _paused_queues(application: Application) -> set[str]:
    """Return the queues of paused lanes; an outage hides them."""
    try:
        by_workers = application.pauses.lasting(application.clock())
        by_operators = OperatorPauses(application.engine).current()
    except (ConfigurationError, TransientError):
        return set()
    asked = {pause.queue for pause in by_operators if pause.lasts and pause.type is None}
    return asked | {pause.queue for pause in by_workers}


def _queues_of_work(application: Application) -> list[tuple[str, int | None, int]]:
    """Return the queues of work, the consumers of each (None: unknown), and how many messages wait."""
    with closing(application.link()) as link:
        queues = application.served_topology().work_queues
        return [(queue.name, link.consumers(queue.name), link.depth(queue.name)) for queue in queues]


def _in_short(queues: Sequence[tuple[str, int | None, int]]) -> str:
    """Return the consumers and the messages of many queues, each queue without a consumer by its name."""
    unread = [
        f"{name} has {_consumers(count)}, {depth} waiting" for name, count, depth in queues if not count
    ]
    consumers, depth = sum(count or 0 for _, count, _ in queues), sum(depth for *_, depth in queues)
    return "; ".join([f"{len(queues)} queues of work have {_consumers(consumers)}, {depth} waiting", *unread])


def _consumers(count: int | None) -> str:
    if count is None:
        return "consumers that an embedded broker doesn't know"
    return "1 consumer" if count == 1 else f"{count or 'no'} consumers"


def _partitions_asked(application: Application) -> Iterator[Ask]:
    """Yield the check of the partitions where there are any."""
    if application.settings.partitions:
        yield "partitions", "", _partitions


def _partitions(application: Application) -> CheckResult:
    """Check that each partition is taken by a worker, and say by which."""
    try:
        leases, now = application.partition_leases.held()
        status = LeaseStatus.of(leases, application.served_topology().partitions, now)
    except (ConfigurationError, TransientError) as error:
        return _unknown(error)  # the lines above say that it is bad
    return CheckResult(HealthState.NOTE if status.free else HealthState.OK, status.text)


def _paused(application: Application) -> CheckResult:
    """Check that no lane is paused; the error names the lanes and the reasons.

    An operator's pause is meant: it is noted, and `status` exits with 1 for it.
    """
    try:
        pauses = application.pauses.lasting(application.clock())
        asked = [pause for pause in OperatorPauses(application.engine).current() if pause.lasts]
    except (ConfigurationError, TransientError) as error:
        return _unknown(error)  # the lines above say that it is bad
    if pauses:
        raise BillingError(
            "; ".join(
                f"{pause.queue} by {pause.worker}, version {pause.version or 'unknown'} ({pause.code}): "
                f"{pause.text}"
                for pause in pauses
            )
        )
    if asked:
        listed = "; ".join(f"{pause.queue}: {pause.text}" for pause in asked)
        return CheckResult(HealthState.NOTE, f"{listed}; `billing-worker resume` ends it")
    return _ok("nothing")


def _payments(application: Application) -> CheckResult:
    """Check that no event waits for its payment longer than the catalog says, and that each can count."""
    try:
        days = application.catalog.payments.waiting_days
        application.require_usable_schema()
        with snapshot(application.engine) as connection:
            found = waiting_counts(connection, overdue_before(application.clock(), days))
    except (ConfigurationError, TransientError):
        return _unknown("see the lines above")
    if not found.overdue and not found.stuck:
        return _ok(f"{_events(found.waiting)} for a payment, none longer than {days} days")
    late = [f"{_events(found.overdue)} longer than {days} days for a payment"] if found.overdue else []
    if found.stuck:
        late.append(f"{found.stuck} can't count for theirs")
    return CheckResult(HealthState.NOTE, f"{', '.join(late)}: see `billing-worker payments`")


def _events(count: int) -> str:
    return {0: "no event waits", 1: "1 event waits"}.get(count, f"{count:,} events wait")
