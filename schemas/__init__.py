"""The public contract: commands, replies, queries, answers, notices and the dead letter, as they are sent.

No input or output happens here and nothing of ``worker`` is imported.
"""

from schemas.accounts import FreezeAccount, FreezingCommand, OpenAccount, SettleAccount, UnfreezeAccount
from schemas.answers import (
    AffordAnswer,
    BalanceAnswer,
    CatalogAnswer,
    HistoryAnswer,
    OperationAnswer,
    ProblemCode,
    QueryAnswer,
    QueryProblem,
    StatsAnswer,
    UsageAnswer,
    answer_in,
)
from schemas.base import NO_USER, OpeningCommand
from schemas.commands import COMMAND_TYPES, MESSAGE_TYPES, Command, Message, commands_of, type_of
from schemas.credits import AdjustCredit, BonusCredit, RefundCredit
from schemas.dead_letter import DeadLetter
from schemas.dead_letter_reason import DeadLetterReason
from schemas.decoding import Limits, decode, decode_query, first_malformed
from schemas.fields import WantedReplies
from schemas.imports import (
    ImportAccount,
    ImportedLot,
    ImportedPayment,
    ImportedQuota,
    ImportedTotals,
)
from schemas.malformed import Malformed
from schemas.notices import Notice, NoticeType
from schemas.partitions import PARTITIONS, partition_of, routing_key, routing_key_of, slots_of
from schemas.payments import (
    CommandAboutPayment,
    DisputeClosed,
    PaymentDisputed,
    PaymentFailed,
    PaymentNamed,
    PaymentRefunded,
    PaymentSucceeded,
    RefundFailed,
    SubscriptionPayment,
)
from schemas.queries import (
    QUERY_TYPES,
    Query,
    QueryAfford,
    QueryBalance,
    QueryCatalog,
    QueryHistory,
    QueryOperation,
    QueryStats,
    QueryUsage,
)
from schemas.replies import Code, Reply, Status
from schemas.slots import SLOTS, slot_of
from schemas.subscriptions import (
    CancelSubscription,
    ChangeSubscription,
    RenewSubscription,
    SubscriptionCommand,
)
from schemas.usage import (
    DeductUsage,
    ExtendUsage,
    FreeUpload,
    RecordUsage,
    ReleaseUsage,
    ReserveUsage,
    SettleUsage,
    UsageBatch,
    UsageWithDeadline,
)
from schemas.version import SCHEMA_VERSION

__all__ = [
    "COMMAND_TYPES",
    "MESSAGE_TYPES",
    "NO_USER",
    "PARTITIONS",
    "QUERY_TYPES",
    "SCHEMA_VERSION",
    "SLOTS",
    "AdjustCredit",
    "AffordAnswer",
    "BalanceAnswer",
    "BonusCredit",
    "CancelSubscription",
    "CatalogAnswer",
    "ChangeSubscription",
    "Code",
    "Command",
    "CommandAboutPayment",
    "DeadLetter",
    "DeadLetterReason",
    "DeductUsage",
    "DisputeClosed",
    "ExtendUsage",
    "FreeUpload",
    "FreezeAccount",
    "FreezingCommand",
    "HistoryAnswer",
    "ImportAccount",
    "ImportedLot",
    "ImportedPayment",
    "ImportedQuota",
    "ImportedTotals",
    "Limits",
    "Malformed",
    "Message",
    "Notice",
    "NoticeType",
    "OpenAccount",
    "OpeningCommand",
    "OperationAnswer",
    "PaymentDisputed",
    "PaymentFailed",
    "PaymentNamed",
    "PaymentRefunded",
    "PaymentSucceeded",
    "ProblemCode",
    "Query",
    "QueryAfford",
    "QueryAnswer",
    "QueryBalance",
    "QueryCatalog",
    "QueryHistory",
    "QueryOperation",
    "QueryProblem",
    "QueryStats",
    "QueryUsage",
    "RecordUsage",
    "RefundCredit",
    "RefundFailed",
    "ReleaseUsage",
    "RenewSubscription",
    "Reply",
    "ReserveUsage",
    "SettleAccount",
    "SettleUsage",
    "StatsAnswer",
    "Status",
    "SubscriptionCommand",
    "SubscriptionPayment",
    "UnfreezeAccount",
    "UsageAnswer",
    "UsageBatch",
    "UsageWithDeadline",
    "WantedReplies",
    "answer_in",
    "commands_of",
    "decode",
    "decode_query",
    "first_malformed",
    "partition_of",
    "routing_key",
    "routing_key_of",
    "slot_of",
    "slots_of",
    "type_of",
]
