"""Frozen accounts: usage and holds are rejected, credit is posted."""

from datetime import datetime

from schemas import (
    Code,
    Command,
    DeductUsage,
    ExtendUsage,
    FreeUpload,
    FreezeAccount,
    FreezingCommand,
    RecordUsage,
    ReserveUsage,
)
from worker.core.account import Account
from worker.core.rules.decisions import Decision, applied, rejected

#: Commands that a frozen account takes none of. Work under a hold that is open may still end.
_USAGE = (DeductUsage, FreeUpload, RecordUsage, ReserveUsage, ExtendUsage)


def refusal(account: Account, command: Command) -> Decision | None:
    """Return the refusal of a usage while the account is frozen; None for anything else."""
    if account.state.frozen_at is None or not isinstance(command, _USAGE):
        return None
    return rejected(Code.ACCOUNT_FROZEN)


def decide_freezing(account: Account, command: FreezingCommand) -> Decision:
    """Freeze an account, or let it be used again; the reply's code says which of the two it is now.

    The word that occurred latest counts, whatever came first; of two at one time the freeze.
    """
    at = command.occurred_at or account.now
    (freeze if isinstance(command, FreezeAccount) else unfreeze)(account, at)
    is_frozen = account.state.frozen_at is not None
    payment = command.payment_reference_id
    detail = {} if payment is None else {"payment_reference_id": payment}
    return applied(Code.FREEZE_BEGAN if is_frozen else Code.FREEZE_ENDED, 0, **detail)


def freeze(account: Account, at: datetime) -> None:
    """Freeze the account as of ``at``, unless it was let go later."""
    state = account.change()
    if state.unfrozen_at is None or state.unfrozen_at <= at:
        state.frozen_at = at if state.frozen_at is None else max(at, state.frozen_at)


def unfreeze(account: Account, at: datetime) -> None:
    """Let the account be used again as of ``at``, unless it was frozen then or later."""
    state = account.change()
    state.unfrozen_at = at if state.unfrozen_at is None else max(at, state.unfrozen_at)
    if state.frozen_at is not None and state.frozen_at < at:
        state.frozen_at = None
