"""Usage at once and by meter: tokens in burn order, free units first."""

from schemas import Code, DeductUsage, FreeUpload, RecordUsage
from worker.catalog import FREE_UPLOAD
from worker.core.account import Account
from worker.core.calendars import present_period
from worker.core.known import QuotaKey, QuotaState
from worker.core.outcomes import BYTE, Outcome
from worker.core.plan import Counter
from worker.core.pricing import price_of
from worker.core.rules.decisions import Context, Decision, applied, rejected, short_of


def deduct(account: Account, command: DeductUsage, outcome: Outcome) -> Decision:
    """Deduct tokens at once: all of them, or none."""
    available = account.state.balance - account.state.held
    if command.tokens > available and command.tokens:  # zero tokens are applied even where there is a debt
        return short_of(command.tokens, available)
    account.take(outcome, command.tokens, Counter.USAGE, command.feature)
    return Decision(Code.TOKENS_DEDUCTED, command.tokens, {})


def count_upload(account: Account, command: FreeUpload, outcome: Outcome, context: Context) -> Decision:
    """Count bytes against the period's free uploads."""
    limit = free_limit(account, FREE_UPLOAD)
    if limit is None:
        return rejected(Code.UNKNOWN_TIER, tier=account.state.tier)
    key, quota = _quota(account, FREE_UPLOAD, context)
    # A limit that was lowered leaves more used than allowed; what is available is then nothing.
    available = max(limit - quota.used, 0)
    if command.bytes > available:
        refused = short_of(command.bytes, available, Code.FREE_UPLOAD_LIMIT_EXCEEDED)
        return refused._replace(detail={**refused.detail, "limit": limit, "used": quota.used})
    if command.bytes:
        quota = account.count(outcome, key, command.bytes)
    return applied(Code.FREE_UPLOAD_COUNTED, command.bytes, limit=limit, used=quota.used)


def record(account: Account, command: RecordUsage, outcome: Outcome, context: Context) -> Decision:
    """Record metered units: the tier's free units first, tokens for the rest; both, or none."""
    rule = context.catalog.pricing.get(command.meter)
    if rule is None:
        return rejected(Code.UNKNOWN_METER, meter=command.meter)
    name = rule.quota or command.meter
    limit = free_limit(account, name)
    if limit is None:
        return rejected(Code.UNKNOWN_TIER, tier=account.state.tier)
    key, quota = _quota(account, name, context)
    free = min(command.quantity, max(limit - quota.used, 0))
    tokens = price_of(rule, command.quantity - free)
    available = account.state.available
    metered: dict[str, int | str] = {
        "meter": command.meter,
        "quantity": command.quantity,
        "free_quantity": free,
        "charged_quantity": command.quantity - free,
    }
    if rule.unit == BYTE:
        metered["meter_unit"] = BYTE
    if tokens > available and tokens:
        refused = short_of(tokens, available)
        return refused._replace(detail={**refused.detail, **metered})
    if free:
        quota = account.count(outcome, key, free)
    if tokens:
        account.take(outcome, tokens, Counter.USAGE, command.feature or command.meter)
    return applied(
        Code.USAGE_RECORDED,
        tokens,
        **metered,
        used=quota.used,
        limit=limit,
    )


def free_limit(account: Account, quota: str) -> int | None:
    """Return the free part of ``quota`` in a period; None where the catalog no longer has the tier.

    A period that was never granted has none, where the tier doesn't renew itself.
    """
    tier = account.tier
    if tier is None:
        return None
    is_unpaid = not tier.auto_renew and account.now >= account.state.granted_until
    if account.has_ended or is_unpaid:
        return 0
    return tier.free_upload_bytes if quota == FREE_UPLOAD else tier.free_units.get(quota, 0)


def _quota(account: Account, name: str, context: Context) -> tuple[QuotaKey, QuotaState]:
    period = present_period(account.state, context.now)
    key = QuotaKey(account.state.account_id, name, period.key)
    return key, account.quota(key, context.known.quotas.get(key))
