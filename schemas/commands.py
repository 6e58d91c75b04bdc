"""The commands a producer may send, by their ``type``."""

from typing import get_args

from schemas.accounts import FreezeAccount, OpenAccount, SettleAccount, UnfreezeAccount
from schemas.credits import AdjustCredit, BonusCredit, RefundCredit
from schemas.imports import ImportAccount
from schemas.payments import (
    DisputeClosed,
    PaymentDisputed,
    PaymentFailed,
    PaymentNamed,
    PaymentRefunded,
    PaymentSucceeded,
    RefundFailed,
)
from schemas.subscriptions import CancelSubscription, ChangeSubscription, RenewSubscription
from schemas.usage import (
    DeductUsage,
    ExtendUsage,
    FreeUpload,
    RecordUsage,
    ReleaseUsage,
    ReserveUsage,
    SettleUsage,
    UsageBatch,
)

#: A command names one operation of the ledger.
Command = (
    OpenAccount
    | ImportAccount
    | SettleAccount
    | FreezeAccount
    | UnfreezeAccount
    | DeductUsage
    | FreeUpload
    | ReserveUsage
    | ExtendUsage
    | SettleUsage
    | ReleaseUsage
    | RecordUsage
    | PaymentSucceeded
    | PaymentNamed
    | PaymentRefunded
    | RefundFailed
    | PaymentDisputed
    | DisputeClosed
    | PaymentFailed
    | RefundCredit
    | BonusCredit
    | AdjustCredit
    | ChangeSubscription
    | RenewSubscription
    | CancelSubscription
)

#: Everything that may come in one message.
Message = Command | UsageBatch

#: Every command by its ``type``; ``usage.batch`` brings many of them and is none itself.
COMMAND_TYPES: dict[str, type[Command]] = {
    model.model_fields["type"].default: model for model in get_args(Command)
}

#: Everything that may come in one message, by its ``type``.
MESSAGE_TYPES: dict[str, type[Message]] = {
    **COMMAND_TYPES,
    UsageBatch.model_fields["type"].default: UsageBatch,
}


def type_of(model: type[Message]) -> str:
    """Return the ``type`` that messages of ``model`` have on the wire."""
    name: str = model.model_fields["type"].default
    return name


def commands_of(message: Message) -> tuple[Command, ...]:
    """Return the commands of ``message``, in order."""
    return message.items if type(message) is UsageBatch else (message,)
