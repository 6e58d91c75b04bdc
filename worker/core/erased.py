"""Commands of erased users: which are refused, and which go on without the user."""

from collections.abc import Set

from schemas import NO_USER, Command, CommandAboutPayment, FreezingCommand
from worker.core.needs import names_of


def is_erased(command: Command, erased: Set[str]) -> bool:
    """Return True for a command of an erased user, and for one that names an erased payment.

    Also for one that opens an account, and for ever: nothing tells a new one from a late copy of the old one,
    and the references that held the id are gone, so that copies of the rest would count once more.
    """
    if command.reference_id in erased or any(name in erased for name in names_of(command)):
        return True
    return command.user_id in erased and not _names_a_payment(command)


def without_erased_user(command: Command, erased: Set[str]) -> Command:
    """Return a command about a payment without its user, who was erased: the payment has the pseudonym."""
    if command.user_id not in erased:
        return command
    return command.model_copy(update={"user_id": NO_USER})


def _names_a_payment(command: Command) -> bool:
    match command:
        case CommandAboutPayment():
            return True
        case FreezingCommand():
            return command.payment_reference_id is not None
    return False
