"""What others rely on: the commands, the replies and the dead letter, as they stand on the wire.

No input or output happens here and nothing of ``worker`` is imported.
"""

from schemas.commands import (
    COMMAND_TYPES,
    BonusCredit,
    Command,
    DeductUsage,
    FreeUpload,
    OpenAccount,
    PaymentSucceeded,
    RefundCredit,
)
from schemas.dead_letter import DeadLetter
from schemas.decoding import Limits, Malformed, decode
from schemas.replies import Code, Reply, Status

__all__ = [
    "COMMAND_TYPES",
    "BonusCredit",
    "Code",
    "Command",
    "DeadLetter",
    "DeductUsage",
    "FreeUpload",
    "Limits",
    "Malformed",
    "OpenAccount",
    "PaymentSucceeded",
    "RefundCredit",
    "Reply",
    "Status",
    "decode",
]

#: Version of the contract; a dead letter names the one that refused it.
SCHEMA_VERSION = 1
