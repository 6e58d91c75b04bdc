"""Users and references that must be known before commands can be decided."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from schemas import (
    NO_USER,
    CancelSubscription,
    Command,
    CommandAboutPayment,
    ExtendUsage,
    FreeUpload,
    FreezingCommand,
    ImportAccount,
    OpenAccount,
    OpeningCommand,
    PaymentNamed,
    PaymentSucceeded,
    RecordUsage,
    RefundCredit,
    ReleaseUsage,
    SettleAccount,
    SettleUsage,
    SubscriptionCommand,
)


@dataclass(slots=True)
class Needs:
    """Users and references that commands ask for, by the kind of need.

    ``references`` are the commands' own and the originals they name, except holds, which are found by their
    account. ``opening`` maps a user to the tier that is asked for first; ``first`` are the users whose
    account the catalog's ``auto_open`` opens, where it is missing. ``usages`` are references of originals;
    ``holds`` are users and the references of theirs; ``names`` are of payments, also of ones that come now.
    ``counting`` are the users whose quotas matter, ``settling`` those for whom events may wait, ``ending``
    those whose allocations may end before their time, ``canceling`` those who say when they canceled.
    """

    users: set[str] = field(default_factory=set)
    references: set[str] = field(default_factory=set)
    opening: dict[str, str] = field(default_factory=dict)
    first: set[str] = field(default_factory=set)
    holds: set[tuple[str, str]] = field(default_factory=set)
    usages: set[str] = field(default_factory=set)
    names: set[str] = field(default_factory=set)
    counting: set[str] = field(default_factory=set)
    settling: set[str] = field(default_factory=set)
    ending: set[str] = field(default_factory=set)
    canceling: set[str] = field(default_factory=set)


def references_of(command: Command) -> tuple[str, ...]:
    """Return the references that ``command`` takes: its own, and those of the payments that it brings."""
    if isinstance(command, ImportAccount):
        return command.reference_id, *(payment.reference_id for payment in command.payments)
    return (command.reference_id,)


def names_of(command: Command) -> tuple[str, ...]:
    """Return the names of payments that ``command`` gives or asks for."""
    match command:
        case PaymentSucceeded():
            return command.reference_id, *(command.also_known_as or ())
        case PaymentNamed():
            return command.original_reference_id, *command.also_known_as
        case CommandAboutPayment():
            return (command.original_reference_id,)
        case FreezingCommand() if command.payment_reference_id is not None:
            return (command.payment_reference_id,)
        case SubscriptionCommand() if command.payment is not None:
            return command.payment.reference_id, *(command.payment.also_known_as or ())
        case ImportAccount():
            return tuple(payment.reference_id for payment in command.payments)
    return ()


def needs_of(commands: Iterable[Command]) -> Needs:
    """Return what ``commands`` need from the ledger."""
    needs = Needs()
    for command in commands:
        if command.user_id != NO_USER:
            needs.users.add(command.user_id)
        needs.references.add(command.reference_id)
        needs.names.update(names_of(command))
        if isinstance(command, OpeningCommand) and not isinstance(command, CommandAboutPayment):
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
                needs.counting.add(command.user_id)
            case CancelSubscription():
                if command.at == "now":
                    needs.ending.add(command.user_id)
                if command.occurred_at is not None:
                    needs.canceling.add(command.user_id)
            case SettleAccount():
                needs.settling.add(command.user_id)
    needs.references |= needs.usages | needs.names
    return needs
