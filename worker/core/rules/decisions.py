"""Decisions of the rules, and the context that a rule may read."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import NamedTuple

from schemas import Code
from worker.catalog import Catalog
from worker.core.account import Account
from worker.core.cancellations import taken_up_by
from worker.core.known import Known, Payment, PaymentEvent, PaymentName, TakenUp
from worker.core.outcomes import Detail, Outcome


class Decision(NamedTuple):
    """Result of a command: ``amount`` is None where it is refused."""

    code: Code
    amount: int | None
    detail: Detail


def applied(code: Code, amount: int, **detail: int | str) -> Decision:
    """Return the decision on an applied command; ``amount`` is in tokens, or bytes."""
    return Decision(code, amount, detail)


def rejected(code: Code, **detail: int | str) -> Decision:
    """Return the decision on a refused command; the account is not changed."""
    return Decision(code, None, detail)


def short_of(required: int, available: int, code: Code = Code.INSUFFICIENT_BALANCE) -> Decision:
    """Return the decision on a command that is refused for a shortfall."""
    return Decision(
        code, None, {"required": required, "available": available, "shortfall": required - available}
    )


@dataclass(slots=True)
class Context:
    """Everything a rule may read beside the account: the time, the catalog, and what is known.

    ``fresh`` holds the outcomes of this batch so far, by reference, ``present`` the one that is being judged.
    ``names``, ``payments`` and ``waiting`` are what this batch has changed of them.
    """

    known: Known
    fresh: dict[str, Outcome]
    now: datetime
    catalog: Catalog
    names: dict[str, PaymentName] = field(default_factory=dict)
    payments: dict[str, Payment] = field(default_factory=dict)
    waiting: dict[str, list[PaymentEvent]] = field(default_factory=dict)
    _present: Outcome | None = None

    def outcome_of(self, reference_id: str) -> Outcome | None:
        """Return the latest outcome of a reference."""
        return self.fresh.get(reference_id) or self.known.outcomes.get(reference_id)

    @property
    def present(self) -> Outcome:
        """Return the outcome that is being judged."""
        if self._present is None:
            raise AssertionError("no command is being judged")
        return self._present

    def judge(self, outcome: Outcome) -> None:
        """Begin to judge: what is posted from now on is of this outcome."""
        self._present = outcome

    def taken_up(self, user_id: str) -> list[TakenUp]:
        """Return when a user's subscription was taken up, as far as it is known."""
        own = (taken_up_by(outcome) for outcome in self.fresh.values() if outcome.user_id == user_id)
        return [*self.known.taken_up.get(user_id, ()), *(one for one in own if one is not None)]

    # -- payments and their names -------------------------------------------------------------------------

    def name_of(self, name: str) -> PaymentName | None:
        """Return what is known of a name; None where nobody has given it, or asked for it."""
        return self.names.get(name) or self.known.payment_names.get(name)

    def bind(self, names: Iterable[str], payment: Payment) -> list[str]:
        """Let these names be the payment's, and all that are the same as one of them; return them all."""
        self.payments[payment.reference_id] = payment
        return self.bind_to(names, payment.reference_id, payment.user_id)

    def bind_to(self, names: Iterable[str], payment_reference: str, user_id: str) -> list[str]:
        """Let these names be those of a payment, which may be in another slot, as ``bind`` does."""
        bound = self._with_the_same(names)
        for name in bound:
            self.names[name] = PaymentName(name, payment_reference, user_id, self._version_of(name))
        return bound

    def join(self, names: Iterable[str]) -> None:
        """Let these names, which no payment has, be of the same payment to come.

        They are written even where they are the same already: the payment may have come since they were read.
        """
        alike = self._with_the_same(names)
        if len(alike) > 1:
            first = min(alike)
            for name in alike:
                self.names[name] = PaymentName(name, version=self._version_of(name), same_as=first)

    def payments_of(self, names: Iterable[str]) -> list[PaymentName]:
        """Return those of these names that a payment has: the first one of each payment."""
        found: dict[str, PaymentName] = {}
        for name in names:
            bound = self.name_of(name)
            if bound is not None and bound.payment_reference is not None:
                found.setdefault(bound.payment_reference, bound)
        return list(found.values())

    def without_payment(self, names: Iterable[str]) -> list[str]:
        """Return those of these names that no payment has."""
        bound = ((name, self.name_of(name)) for name in names)
        return [name for name, known in bound if known is None or known.payment_reference is None]

    def _with_the_same(self, names: Iterable[str]) -> list[str]:
        """Return these names, and all that are the same as one of them."""
        given = list(dict.fromkeys(names))
        firsts = {known.same_as for name in given if (known := self.name_of(name)) is not None} - {None}
        if not firsts:
            return given
        everything = {**self.known.payment_names, **self.names}
        alike = (name for name, known in everything.items() if known.same_as in firsts)
        return list(dict.fromkeys((*given, *sorted(alike))))

    def _version_of(self, name: str) -> int:
        known = self.known.payment_names.get(name)
        return 0 if known is None else known.version

    def payment_named(self, name: str) -> Payment | None:
        """Return the payment of a name; None where there is none yet."""
        bound = self.name_of(name)
        if bound is None or bound.payment_reference is None:
            return None
        reference = bound.payment_reference
        payment = self.payments.get(reference)
        if payment is None and (known := self.known.payments.get(reference)) is not None:
            payment = self.payments[reference] = replace(known, taken=dict(known.taken))
        return payment

    def events_of(self, payment: Payment, account: Account) -> list[PaymentEvent]:
        """Return the events that count for a payment so far, those of this batch included."""
        reference = payment.reference_id
        fresh = (event for event in account.written.payment_events if event.name == reference)
        return [*self.known.payment_events.get(reference, ()), *fresh]

    def is_counted(self, reference_id: str, payment: Payment, account: Account) -> bool:
        """Return True where the event of this reference counts for the payment already."""
        return any(event.reference_id == reference_id for event in self.events_of(payment, account))

    def names_awaited(self, payment: Payment) -> list[str]:
        """Return the names of a payment under which events wait."""
        return [
            name
            for name in sorted({*self.known.waiting, *self.waiting})
            if (bound := self.name_of(name)) is not None and bound.payment_reference == payment.reference_id
        ]

    def waiting_under(self, names: Iterable[str], account: Account) -> list[PaymentEvent]:
        """Return the events that wait under these names of a payment."""
        own = set(account.written.taken_in)
        return [
            replace(event)
            for name in sorted(names)
            for event in (*self.known.waiting.get(name, ()), *self.waiting.get(name, ()))
            if event.reference_id not in own
        ]
