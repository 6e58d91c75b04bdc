"""Frozen accounts: usage and holds are rejected, credit is posted."""

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
    """Freeze an account, or let it be used again; twice is as good as once."""
    is_freeze = isinstance(command, FreezeAccount)
    (freeze if is_freeze else unfreeze)(account)
    detail = (
        {} if command.payment_reference_id is None else {"payment_reference_id": command.payment_reference_id}
    )
    return applied(Code.FREEZE_BEGAN if is_freeze else Code.FREEZE_ENDED, 0, **detail)


def freeze(account: Account) -> None:
    """Freeze the account, where it isn't frozen already."""
    state = account.change()
    if state.frozen_at is None:
        state.frozen_at = account.now


def unfreeze(account: Account) -> None:
    """Let the account be used again."""
    account.change().frozen_at = None
