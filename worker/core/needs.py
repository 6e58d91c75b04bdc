"""Users and references that must be known before commands can be decided."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from schemas import (
    Command,
    DisputeClosed,
    ExtendUsage,
    FreeUpload,
    ImportAccount,
    OpenAccount,
    OpeningCommand,
    PaymentDisputed,
    PaymentFailed,
    PaymentRefunded,
    PaymentSucceeded,
    RecordUsage,
    RefundCredit,
    ReleaseUsage,
    SettleUsage,
)


@dataclass(slots=True)
class Needs:
    """Users and references that commands ask for, by the kind of need.

    ``references`` are the commands' own and the originals they name, except holds, which are found by their
    account. ``opening`` maps a user to the tier that is asked for first; ``first`` are the users whose
    account the catalog's ``auto_open`` opens, where it is missing. ``usages`` and ``payments`` are the
    references of originals; ``holds`` are users and the references of theirs; ``paying`` are users and the
    references of payments, also of ones that come now. ``counting`` are the users whose quotas matter.
    """

    users: set[str] = field(default_factory=set)
    references: set[str] = field(default_factory=set)
    opening: dict[str, str] = field(default_factory=dict)
    first: set[str] = field(default_factory=set)
    holds: set[tuple[str, str]] = field(default_factory=set)
    usages: set[str] = field(default_factory=set)
    payments: set[str] = field(default_factory=set)
    paying: set[tuple[str, str]] = field(default_factory=set)
    counting: set[str] = field(default_factory=set)


def references_of(command: Command) -> tuple[str, ...]:
    """Return the references that ``command`` takes: its own, and those of the payments that it brings."""
    if isinstance(command, ImportAccount):
        return command.reference_id, *(payment.reference_id for payment in command.payments)
    return (command.reference_id,)


def needs_of(commands: Iterable[Command]) -> Needs:
    """Return what ``commands`` need from the ledger."""
    needs = Needs()
    for command in commands:
        needs.users.add(command.user_id)
        needs.references.add(command.reference_id)
        if isinstance(command, OpeningCommand):
            needs.first.add(command.user_id)
            if command.open_tier is not None:
                needs.opening.setdefault(command.user_id, command.open_tier)
        match command:
            case OpenAccount():
                needs.opening.setdefault(command.user_id, command.tier)
            case ImportAccount():
                needs.opening.setdefault(command.user_id, command.tier)
                needs.references.update(references_of(command))
            case FreeUpload() | RecordUsage():
                needs.counting.add(command.user_id)
            case ExtendUsage() | SettleUsage() | ReleaseUsage():
                needs.holds.add((command.user_id, command.original_reference_id))
            case RefundCredit() if command.original_reference_id is not None:
                needs.usages.add(command.original_reference_id)
            case PaymentSucceeded():
                needs.paying.add((command.user_id, command.reference_id))
            case PaymentRefunded() | PaymentDisputed() | DisputeClosed() | PaymentFailed():
                needs.payments.add(command.original_reference_id)
                needs.paying.add((command.user_id, command.original_reference_id))
    needs.references |= needs.usages | needs.payments
    return needs
