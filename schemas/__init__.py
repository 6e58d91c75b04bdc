"""The public contract: the commands, the replies, the notices and the dead letter, in their form on the wire.

No input or output happens here and nothing of ``worker`` is imported.
"""

from schemas.accounts import OpenAccount, SettleAccount
from schemas.commands import COMMAND_TYPES, MESSAGE_TYPES, Command, Message, commands_of, type_of
from schemas.credits import AdjustCredit, BonusCredit, RefundCredit
from schemas.dead_letter import DeadLetter
from schemas.dead_letter_reason import DeadLetterReason
from schemas.decoding import Limits, decode, first_malformed
from schemas.malformed import Malformed
from schemas.notices import Notice, NoticeType
from schemas.payments import (
    DisputeClosed,
    PaymentDisputed,
    PaymentFailed,
    PaymentRefunded,
    PaymentSucceeded,
)
from schemas.replies import Code, Reply, Status
from schemas.slots import SLOTS, slot_of
from schemas.subscriptions import CancelSubscription, ChangeSubscription, RenewSubscription
from schemas.usage import (
    DeductUsage,
    FreeUpload,
    RecordUsage,
    ReleaseUsage,
    ReserveUsage,
    SettleUsage,
    UsageBatch,
)

__all__ = [
    "COMMAND_TYPES",
    "MESSAGE_TYPES",
    "SLOTS",
    "AdjustCredit",
    "BonusCredit",
    "CancelSubscription",
    "ChangeSubscription",
    "Code",
    "Command",
    "DeadLetter",
    "DeadLetterReason",
    "DeductUsage",
    "DisputeClosed",
    "FreeUpload",
    "Limits",
    "Malformed",
    "Message",
    "Notice",
    "NoticeType",
    "OpenAccount",
    "PaymentDisputed",
    "PaymentFailed",
    "PaymentRefunded",
    "PaymentSucceeded",
    "RecordUsage",
    "RefundCredit",
    "ReleaseUsage",
    "RenewSubscription",
    "Reply",
    "ReserveUsage",
    "SettleAccount",
    "SettleUsage",
    "Status",
    "UsageBatch",
    "commands_of",
    "decode",
    "first_malformed",
    "slot_of",
    "type_of",
]

#: Version of the contract; a dead letter names the one that refused it.
SCHEMA_VERSION = 2
