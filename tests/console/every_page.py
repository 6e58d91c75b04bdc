"""Every page of the console, and a ledger that puts long and hostile content on each of them."""

from datetime import UTC, datetime, timedelta

from schemas import DeductUsage, PaymentSucceeded
from tests.console import sample_data
from tests.support.apply_commands import applied
from worker.bootstrap import Application
from worker.broker import Delivery
from worker.ledger.operator_pauses import PauseKind
from worker.ledger.queries.operation_filter import OperationFilter
from worker.ledger.workers import Workers
from worker.reversing import store
from worker.reversing.models import ReverseRequest
from worker.reversing.survey import survey
from worker.steering import pause_lanes

_USER, _REFERENCE, _FEATURE = "x" * 200, f"{'r' * 180}3", "f" * 64
#: Number of the last dead letter; its reference names another user's operation.
_CONFLICT = 24

_PAGES = (
    "/",
    "/workers",
    "/dead-letters",
    "/dead-letters/list",
    "/dead-letters/1",
    "/dead-letters/3",
    "/dead-letters/5",
    f"/dead-letters/{_CONFLICT}",
    "/dead-letters/3/edit",
    "/dead-letters/dry-run?n=1&n=3",
    "/dead-letters/replay?n=1",
    f"/dead-letters/edit?n=1&n=3&n={_CONFLICT}&set=metadata.a-long-name-of-a-field%3Dvalue&preview=1",
    "/dead-letters/discard?n=1",
    "/replays",
    "/replays/1",
    "/payments",
    "/accounts",
    "/accounts?sort=most_used",
    "/operations",
    "/operations?top=feature",
    f"/reverse?feature={_FEATURE}&user={_USER}",
    "/reverse-runs",
    "/reverse-runs/1",
    "/reports?report=revenue&by=month",
    "/reports?report=liability&by=day",
    "/reports?report=usage&by=day&by=feature",
    f"/account?user={_USER}",
    f"/account/history?user={_USER}",
    f"/account/operations?user={_USER}",
    f"/account/usage?user={_USER}",
    f"/account/statement?user={_USER}",
    f"/explain?reference={_REFERENCE}",
    "/activity-log",
    "/nowhere",
)


def fill(application: Application) -> list[str]:
    """Put content on every page, names and texts as long as they may be; return the paths of the pages."""
    now = datetime.now(UTC)
    engine, service, catalog = application.engine, application.service(), application.catalog
    sample_data.large(engine, service, catalog, now, groups=5, users=10, alike=10)
    applied(engine, catalog, rejected_payment("p" * 180), _charge(now))
    sample_data.drain(service, [_conflict(now)])
    Workers(engine).write(sample_data.known_worker("h" * 60))
    pause_lanes(application, "usage", None, PauseKind.PAUSE, reason="w" * 300, actor="a" * 100)
    service.create_replay([1, 3, 5], "w" * 300, "a" * 100, rate=1, steps=(1,), stop_on=("rejected=2%",))
    charges = survey(engine, now, OperationFilter(user_id=_USER), application.survey_rules)
    request = ReverseRequest("w" * 300, "a" * 100, f"user {_USER}")
    store.create(engine, now, charges.keys, request)
    assert service.dead_letter(_CONFLICT).reference_id == "c" * 180
    largest = service.groups().groups[0].fingerprint
    return [*_PAGES, f"/groups/{largest}", f"/dead-letters/discard?group={largest}"]


def rejected_payment(reference: str) -> PaymentSucceeded:
    """Return a payment of a package that the catalog lacks."""
    return PaymentSucceeded(
        reference_id=reference, user_id="ada", package_id="gone", amount_minor=1_999, currency="USD"
    )


def _charge(now: datetime) -> DeductUsage:
    return DeductUsage(
        reference_id="c" * 180,
        user_id=_USER,
        tokens=12,
        feature=_FEATURE,
        occurred_at=now - timedelta(hours=1),
    )


def _conflict(now: datetime) -> Delivery:
    """Return a dead letter with the reference of ``_charge`` and other content."""
    other = {"type": "usage.deduct", "referenceId": "c" * 180, "userId": "y" * 200, "tokens": 10**9}
    return sample_data.refused(other, now, app_id="s" * 100, message_id="m" * 200)
