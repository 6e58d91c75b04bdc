"""Commands with identities of a world of their own, so that many worlds fit one database."""

from schemas import (
    Command,
    ImportAccount,
    ImportedLot,
    ImportedPayment,
    PaymentNamed,
    PaymentSucceeded,
    SubscriptionCommand,
    SubscriptionPayment,
)

_NAMES = ("reference_id", "user_id", "original_reference_id", "refund_reference_id", "payment_reference_id")


def in_world(world: int, command: Command) -> Command:
    """Return the command with all that it names in a world: user, references, imported payments."""
    own: dict[str, object] = {
        name: f"{world}-{value}" for name in _NAMES if (value := getattr(command, name, None))
    }
    if isinstance(command, PaymentSucceeded | PaymentNamed):
        own |= _names(world, command.also_known_as)
    if isinstance(command, SubscriptionCommand) and command.payment is not None:
        own["payment"] = _paid(world, command.payment)
    if isinstance(command, ImportAccount):
        return command.model_copy(
            update={
                **own,
                "lots": tuple(_lot(world, lot) for lot in command.lots),
                "payments": tuple(_payment(world, payment) for payment in command.payments),
            }
        )
    return command.model_copy(update=own)


def _names(world: int, names: tuple[str, ...] | None) -> dict[str, object]:
    return {"also_known_as": tuple(f"{world}-{name}" for name in names)} if names else {}


def _paid(world: int, payment: SubscriptionPayment) -> SubscriptionPayment:
    own = {"reference_id": f"{world}-{payment.reference_id}", **_names(world, payment.also_known_as)}
    return payment.model_copy(update=own)


def _lot(world: int, lot: ImportedLot) -> ImportedLot:
    named = lot.payment_reference_id
    return lot if named is None else lot.model_copy(update={"payment_reference_id": f"{world}-{named}"})


def _payment(world: int, payment: ImportedPayment) -> ImportedPayment:
    return payment.model_copy(update={"reference_id": f"{world}-{payment.reference_id}"})
