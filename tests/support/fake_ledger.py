"""The ledger in memory: it loads and writes as ``worker/ledger/store.py`` does, without a database.

What the tables' constraints and triggers refuse is an assertion here, and so is what must be true of the
whole after every batch.
"""

import json
import pickle
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from copy import copy
from dataclasses import fields, replace
from datetime import UTC, datetime
from typing import Any

from schemas import Code, Command
from tests.support.strategies import NOW, SMALL_CATALOG
from worker.catalog import Catalog
from worker.core import (
    AccountState,
    Counter,
    Entry,
    Hold,
    HoldState,
    Known,
    Lot,
    Outcome,
    Payment,
    PaymentEvent,
    PaymentName,
    Plan,
    QuotaEntry,
    QuotaKey,
    QuotaState,
    Source,
    Superseded,
    Taken,
    UsageRefund,
    decide,
    reply_for,
)
from worker.core.calendars import present_period
from worker.core.cancellations import taken_up_by
from worker.core.contents import command_of
from worker.core.known import TakenUp
from worker.core.needs import names_of, needs_of
from worker.core.superseded import Owner, owner_of

_NEVER = datetime.max.replace(tzinfo=UTC)


class FakeLedger:
    """The rows of the ledger in dicts and lists. ``catalog`` may be exchanged between two batches."""

    def __init__(self, catalog: Catalog = SMALL_CATALOG) -> None:
        self.catalog = catalog
        self.accounts: dict[str, AccountState] = {}
        self.outcomes: dict[str, Outcome] = {}
        #: Superseded outcomes, in the order in which others replaced them.
        self.superseded: list[Outcome] = []
        self.taken: dict[Owner, Outcome] = {}
        self.quotas: dict[QuotaKey, QuotaState] = {}
        self.entries: list[Entry] = []
        self.quota_entries: list[QuotaEntry] = []
        self.lots: dict[tuple[int, int], Lot] = {}
        self.holds: dict[str, Hold] = {}
        self.payments: list[Payment] = []
        self.payment_events: list[PaymentEvent] = []
        self.usage_refunds: list[UsageRefund] = []
        self.names: dict[str, PaymentName] = {}
        self.waiting: dict[str, PaymentEvent] = {}
        self._ids = 0

    def apply(self, commands: Sequence[Command], now: datetime = NOW) -> list[dict[str, Any]]:
        """Take one batch from load to reply; the replies as they stand on the wire."""
        known = self.load(commands, now)
        before = pickle.loads(pickle.dumps(known))  # noqa: S301 - faster than a deep copy
        plan = decide(commands, known, now, self.catalog)
        assert known == before, "decide has changed what is known"
        self.write(plan, known)
        answered = zip(commands, plan.answers, strict=True)
        return [json.loads(reply_for(command, answer).to_json()) for command, answer in answered]

    def balances(self) -> dict[str, int]:
        """The balance of every user who has an account."""
        return {user_id: account.balance for user_id, account in self.accounts.items()}

    def history(self, user_id: str) -> list[Entry]:
        """The user's entries, oldest first; empty where there is no account."""
        account = self.accounts.get(user_id)
        return [entry for entry in self.entries if account and entry.account_id == account.account_id]

    def lots_of(self, user_id: str) -> list[Lot]:
        """Every lot the user ever had, in order."""
        account_id = self.accounts[user_id].account_id
        return [lot for (owner, _), lot in sorted(self.lots.items()) if owner == account_id]

    def holds_of(self, user_id: str) -> list[Hold]:
        """Every hold of the user, in the order of their opening."""
        account_id = self.accounts[user_id].account_id
        return [hold for hold in self.holds.values() if hold.account_id == account_id]

    def rows(self) -> dict[str, Any]:
        """A copy of all that moves: everything but the outcomes and the numbers that they got."""
        return {
            "accounts": {user: copy(account) for user, account in self.accounts.items()},
            "quotas": {key: copy(quota) for key, quota in self.quotas.items()},
            "lots": {key: lot.clone() for key, lot in self.lots.items()},
            "holds": {name: copy(hold) for name, hold in self.holds.items()},
            "entries": list(self.entries),
            "quota_entries": list(self.quota_entries),
            "payments": list(self.payments),
            "payment_events": list(self.payment_events),
            "usage_refunds": list(self.usage_refunds),
            "waiting": dict(self.waiting),
        }

    # -- load ---------------------------------------------------------------------------------------------

    def load(self, commands: Sequence[Command], now: datetime) -> Known:
        """Load as the store does; missing accounts are made first and named in ``just_opened``."""
        needs = needs_of(commands)
        first = needs.first if self.catalog.auto_open else set()
        opening = {**dict.fromkeys(first, self.catalog.auto_open or ""), **needs.opening}
        just_opened = self._make_missing_accounts(opening, now)
        unopened = self._unopened_payments(just_opened)
        asked = set(needs.names)
        for outcome in (outcome for own in unopened.values() for outcome in own):
            asked |= set(names_of(command_of(outcome, outcome.attempt)))
        names = {name: copy(self.names[name]) for name in sorted(asked) if name in self.names}
        names |= {
            event.name: copy(self.names[event.name])
            for event in self.waiting.values()
            if event.name in self.names and self.names[event.name].user_id in needs.settling
        }
        firsts = {name.same_as for name in names.values()} - {None}
        names |= {one.name: copy(one) for one in self.names.values() if one.same_as in firsts}
        users = needs.users | {name.user_id for name in names.values() if name.user_id is not None}
        accounts = {user: copy(self.accounts[user]) for user in sorted(users) if user in self.accounts}
        outcomes = {
            name: copy(self.outcomes[name]) for name in sorted(needs.references) if name in self.outcomes
        }
        usages = {name: self._taken(name) for name in needs.usages if name in outcomes}
        bound = {name.payment_reference for name in names.values()}
        payments = {
            paid.reference_id: replace(paid, lapsed=self._lapsed(paid), taken=self._taken_back(paid))
            for paid in self.payments
            if paid.reference_id in bound
        }
        return Known(
            accounts=accounts,
            just_opened=just_opened,
            outcomes=outcomes,
            superseded=self._superseded(commands),
            quotas=self._quotas([a for user, a in accounts.items() if user in needs.counting], now),
            lots=self._lots(accounts.values(), usages.values(), payments.values(), needs.ending),
            holds=self._holds(accounts.values(), needs.holds),
            usages=usages,
            payments=payments,
            payment_events=self._payment_events(payments),
            payment_names=names,
            waiting=self._waiting(names.keys() | asked),
            taken_up=self._taken_up(needs.canceling & accounts.keys()),
            unopened_payments=unopened,
        )

    def _taken_up(self, users: Set[str]) -> dict[str, list[TakenUp]]:
        known: dict[str, list[TakenUp]] = {}
        for outcome in self.outcomes.values():
            if outcome.user_id in users and (one := taken_up_by(outcome)) is not None:
                known.setdefault(outcome.user_id, []).append(one)
        return known

    def _waiting(self, names: Set[str]) -> dict[str, list[PaymentEvent]]:
        known: dict[str, list[PaymentEvent]] = {}
        for event in self.waiting.values():
            if event.name in names:
                known.setdefault(event.name, []).append(copy(event))
        return known

    def _unopened_payments(self, users: Set[str]) -> dict[str, list[Outcome]]:
        known: dict[str, list[Outcome]] = {}
        for outcome in self.outcomes.values():
            is_unopened = (outcome.type, outcome.code) == ("payment.succeeded", Code.ACCOUNT_NOT_FOUND)
            if outcome.user_id in users and is_unopened:
                known.setdefault(outcome.user_id, []).append(copy(outcome))
        return known

    def _superseded(self, commands: Sequence[Command]) -> Superseded:
        """Superseded outcomes of the commands' own types and users."""
        known, owners = Superseded(), {owner_of(command) for command in commands}
        for replaced in self.superseded:
            if owner_of(replaced) in owners:
                known.add_attempt(copy(replaced))
        for owner in owners & self.taken.keys():
            known.add_lost(copy(self.taken[owner]))
        return known

    def _make_missing_accounts(self, opening: Mapping[str, str], now: datetime) -> set[str]:
        made = {user for user in opening if user not in self.accounts}
        for user in sorted(made):
            self.accounts[user] = AccountState(self._next_id(), user, opening[user], now, now)
        return made

    def _next_id(self) -> int:
        self._ids += 1
        return self._ids

    def _quotas(self, accounts: Iterable[AccountState], now: datetime) -> dict[QuotaKey, QuotaState]:
        present = {account.account_id: present_period(account, now).key for account in accounts}
        return {
            key: copy(quota)
            for key, quota in self.quotas.items()
            if present.get(key.account_id) == key.period_start
        }

    def _taken(self, reference_id: str) -> Taken:
        parts = tuple(
            (entry.lot, -entry.amount)
            for entry in self.entries
            if entry.outcome.reference_id == reference_id and entry.counter is Counter.USAGE and entry.lot
        )
        refunds = [row for row in self.usage_refunds if row.original.reference_id == reference_id]
        back, freed = sum(row.tokens for row in refunds), sum(row.free_quantity for row in refunds)
        counted = (entry.key for entry in self.quota_entries if entry.outcome.reference_id == reference_id)
        return Taken(parts, back, next(counted, None), freed)

    def _lots(
        self,
        accounts: Iterable[AccountState],
        usages: Iterable[Taken],
        payments: Iterable[Payment],
        ending: Set[str],
    ) -> dict[int, list[Lot]]:
        """Lots with something left, lots that usage to be refunded came from, and lots that payments made.

        Of those who are ``ending`` their subscription all allocations.
        """
        accounts = list(accounts)
        ids = {account.account_id for account in accounts}
        payments = list(payments)
        taken = {number for usage in usages for number, _ in usage.parts}
        taken |= {number for payment in payments for number in payment.taken if number is not None}
        made_by = {payment.operation_id for payment in payments}
        with_tier = {payment.account_id for payment in payments if payment.tier is not None}
        with_tier |= {account.account_id for account in accounts if account.user_id in ending}
        known: dict[int, list[Lot]] = {}
        for (account_id, number), lot in sorted(self.lots.items()):
            is_open = lot.remaining > 0 or lot.pending > 0
            is_allocation = account_id in with_tier and lot.source is Source.ALLOCATION
            is_known = is_open or number in taken or lot.operation_id in made_by or is_allocation
            if account_id in ids and is_known:
                known.setdefault(account_id, []).append(lot.clone())
        return known

    def _holds(self, accounts: Iterable[AccountState], named: Set[tuple[str, str]]) -> dict[int, list[Hold]]:
        references = {reference for _, reference in named}
        ids = {account.account_id for account in accounts}
        known: dict[int, list[Hold]] = {}
        for hold in sorted(self.holds.values(), key=lambda hold: hold.operation_id or 0):
            if hold.account_id in ids and (hold.state is HoldState.OPEN or hold.reference_id in references):
                known.setdefault(hold.account_id, []).append(copy(hold))
        return known

    def _payment_events(self, references: Iterable[str]) -> dict[str, list[PaymentEvent]]:
        known: dict[str, list[PaymentEvent]] = {}
        for happened in self.payment_events:
            if happened.name in references:
                known.setdefault(happened.name, []).append(copy(happened))
        return known

    # -- write --------------------------------------------------------------------------------------------

    def write(self, plan: Plan, known: Known) -> None:
        """Write as the store does, in its order."""
        self._claim(plan)
        self._supersede(plan)
        self._append(plan.entries)
        self._count_quotas(plan)
        self._write_lots(plan)
        self._write_holds(plan)
        self._write_payments(plan)
        self._move_accounts(plan, known)
        for user_id in known.just_opened - plan.opened:
            del self.accounts[user_id]
        self._hold_true()

    def _claim(self, plan: Plan) -> None:
        """Give references up that are taken, and write the new operations, each as it was judged first."""
        for lost in plan.taken:
            if lost.transaction_id is not None:
                self._give_up(self.outcomes.pop(lost.reference_id), lost)
        lost_at_once = {owner_of(lost) for lost in plan.taken if lost.transaction_id is None}
        for outcome in sorted(plan.outcomes, key=lambda outcome: outcome.reference_id):
            outcome.transaction_id = self._next_id()
            _check_outcome(outcome)
            if owner_of(outcome) in lost_at_once:
                self._give_up(outcome, outcome)
            else:
                assert outcome.reference_id not in self.outcomes, "a reference is claimed twice"
                self.outcomes[outcome.reference_id] = replace(outcome)
        for lost in plan.taken:
            taker = self.outcomes[lost.reference_id]
            kinds = taker.type.partition(".")[0], lost.type.partition(".")[0]
            assert kinds in {(k, "usage") for k in ("payment", "credit", "subscription", "account")}

    def _give_up(self, stored: Outcome, lost: Outcome) -> None:
        assert owner_of(stored) == owner_of(lost), "a reference is taken from one who hasn't got it"
        assert lost.moved_nothing, "a reference is taken from a command that moved something"
        assert lost.transaction_id not in self._moving(), "a reference is taken from one with entries"
        assert owner_of(lost) not in self.taken, "a reference is taken twice"
        self.taken[owner_of(lost)] = replace(stored)

    def _supersede(self, plan: Plan) -> None:
        for stored, outcome in plan.rejudged:
            outcome.transaction_id = stored.transaction_id
            owner = owner_of(stored)
            assert stored.moved_nothing, "an outcome that moved something is superseded"
            assert stored.transaction_id not in self._moving(), "an outcome with entries is superseded"
            assert owner == owner_of(outcome), "an outcome is superseded by another command"
            assert stored.attempt < outcome.attempt, "an attempt is superseded by an earlier one"
            assert not stored.is_applied, "an applied outcome is judged anew"
            keys = [(owner_of(one), one.attempt) for one in self.superseded]
            assert (owner, stored.attempt) not in keys, "an attempt is superseded twice"
            _check_outcome(outcome)
            self.superseded.append(replace(stored))
            if owner in self.taken:
                self.taken[owner] = replace(outcome)
            else:
                assert self.outcomes[stored.reference_id] == stored, "what is superseded is not the latest"
                self.outcomes[stored.reference_id] = replace(outcome)

    def _moving(self) -> set[int | None]:
        """The operations that something written before refers to."""
        return {
            *(entry.outcome.transaction_id for entry in self.entries),
            *(entry.outcome.transaction_id for entry in self.quota_entries),
            *(hold.operation_id for hold in self.holds.values()),
            *(hold.closed_by.transaction_id for hold in self.holds.values() if hold.closed_by),
        }

    def _append(self, entries: Iterable[Entry]) -> None:
        taken = {(entry.account_id, entry.sequence) for entry in self.entries}
        for entry in entries:
            _check_entry(entry)
            assert (entry.account_id, entry.sequence) not in taken, "a sequence is given twice"
            taken.add((entry.account_id, entry.sequence))
            self.entries.append(entry)

    def _count_quotas(self, plan: Plan) -> None:
        for entry in plan.quota_entries:
            quota = self.quotas.setdefault(entry.key, QuotaState())
            assert entry.amount != 0
            assert (quota.used, quota.sequence) == (entry.used_before, entry.sequence - 1)
            assert entry.used_after == entry.used_before + entry.amount >= 0
            self.quotas[entry.key] = QuotaState(entry.used_after, entry.sequence)
            self.quota_entries.append(entry)

    def _write_lots(self, plan: Plan) -> None:
        for lot in plan.new_lots:
            key = (lot.account_id, lot.number)
            assert key not in self.lots, "a lot's number is given twice"
            assert lot.operation_id is None
            assert lot.outcome is not None, "a lot that nothing granted"
            _check_lot(lot)
            assert lot.parent is None or (lot.account_id, lot.parent) in self.lots, "a parent nobody knows"
            self.lots[key] = lot.clone()
            self.lots[key].operation_id, self.lots[key].outcome = lot.outcome.transaction_id, None
        self._change_lots(plan.used_lots, {"remaining"})
        self._change_lots(plan.changed_lots, {"remaining", "held", "pending", "is_noticed", "ended_at"})

    def _change_lots(self, lots: Iterable[Lot], moving: Set[str]) -> None:
        for lot in lots:
            before = self.lots[lot.account_id, lot.number]
            assert _differences(before, lot) <= moving, "what a lot was granted as has changed"
            _check_lot(lot)
            self.lots[lot.account_id, lot.number] = lot.clone()

    def _write_holds(self, plan: Plan) -> None:
        for hold in plan.new_holds:
            assert hold.reference_id not in self.holds, "a hold is opened twice"
            assert hold.outcome is not None, "a hold that nothing opened"
            assert hold.is_dispute or hold.outcome.reference_id == hold.reference_id
            assert all((hold.account_id, number) in self.lots for number, _ in hold.parts)
            _check_hold(hold)
            self.holds[hold.reference_id] = replace(
                hold, operation_id=hold.outcome.transaction_id, outcome=None
            )
        for hold in plan.changed_holds:
            before = self.holds[hold.reference_id]
            assert before.state is HoldState.OPEN, "a closed hold has changed"
            assert before.expires_at <= hold.expires_at, "a hold ends earlier than it would have"
            changing = {"expires_at", "state", "captured", "closed_at", "closed_by"}
            assert _differences(before, hold) <= changing
            _check_hold(hold)
            self.holds[hold.reference_id] = replace(hold)
        for hold in plan.late_holds:
            before = self.holds[hold.reference_id]
            assert (before.state, hold.state) == (HoldState.EXPIRED, HoldState.SETTLED)
            assert _differences(before, hold) <= {"state", "captured"}
            self.holds[hold.reference_id] = replace(hold)

    def _lapsed(self, payment: Payment) -> dict[int, int]:
        own = {
            lot.number
            for lot in self.lots.values()
            if lot.account_id == payment.account_id
            and (
                lot.operation_id == payment.operation_id
                or (payment.tier is not None and lot.source is Source.ALLOCATION and lot.parent is not None)
            )
        }
        lapsed: dict[int, int] = {}
        for entry in self.entries:
            if (
                entry.account_id == payment.account_id
                and entry.counter is Counter.EXPIRY
                and entry.lot in own
            ):
                lapsed[entry.lot] = lapsed.get(entry.lot, 0) - entry.amount
        return lapsed

    def _taken_back(self, payment: Payment) -> dict[int | None, int]:
        posted_by = {
            event.outcome.reference_id
            for event in self.payment_events
            if event.name == payment.reference_id and event.outcome is not None
        }
        taken: dict[int | None, int] = {}
        for entry in self.entries:
            if entry.counter is Counter.REVERSALS and entry.outcome.reference_id in posted_by:
                taken[entry.lot] = taken.get(entry.lot, 0) - entry.amount
        return taken

    def _write_payments(self, plan: Plan) -> None:
        for paid in plan.payments:
            assert paid.outcome is not None, "a payment that nothing recorded"
            assert paid.amount_minor >= 0
            assert paid.base_tokens >= 0
            assert paid.bonus_tokens >= 0
            assert (paid.package_id is None) != (paid.tier is None)
            assert all(paid.reference_id != other.reference_id for other in self.payments)
            self.payments.append(
                replace(paid, operation_id=paid.outcome.transaction_id, outcome=None, taken={}, lapsed={})
            )
        noted = {happened.reference_id for happened in self.payment_events}
        for happened in plan.payment_events:
            assert happened.outcome is not None, "an event that nothing recorded"
            assert happened.reference_id not in noted, "an event is written twice"
            noted.add(happened.reference_id)
            assert happened.amount_minor is None or happened.amount_minor >= 0
            assert any(happened.name == paid.reference_id for paid in self.payments)
            self.payment_events.append(happened)
        for waiting in plan.waiting:
            assert waiting.reference_id not in self.waiting
            self.waiting[waiting.reference_id] = waiting
            self.names.setdefault(waiting.name, PaymentName(waiting.name))
        for name in plan.names:
            assert self.names.get(name.name, name).payment_reference in (None, name.payment_reference)
            assert name.same_as is None or name.user_id is None, "a name is bound, and still to come"
            self.names[name.name] = name
        firsts = {name.same_as for name in self.names.values() if name.same_as is not None}
        assert all(self.names[first].same_as == first for first in firsts), "names the same as none of them"
        for reference in plan.taken_in:
            self.waiting.pop(reference, None)
        for row in plan.usage_refunds:
            assert row.tokens >= 0
            assert row.free_quantity >= 0
            assert row.tokens + row.free_quantity > 0
            self.usage_refunds.append(row)

    def _move_accounts(self, plan: Plan, known: Known) -> None:
        for move in plan.accounts:
            account = move.state
            before = self.accounts[account.user_id]
            assert before.account_id == account.account_id
            assert before.sequence == move.sequence_before, "an account moved under its lock"
            if move.only_used:
                assert account.user_id not in known.just_opened
                assert _differences(before, account) <= {"balance", "sequence", "used"}
            self.accounts[account.user_id] = copy(account)

    # -- what must be true after every batch --------------------------------------------------------------

    def _hold_true(self) -> None:
        for account in self.accounts.values():
            self._check_sums(account)
            self._check_chain(account)
            self._check_lots(account)
        owners = {account.account_id for account in self.accounts.values()}
        assert {entry.account_id for entry in self.entries} <= owners, "an entry without an account"
        assert {account_id for account_id, _ in self.lots} <= owners, "a lot without an account"

    def _check_sums(self, account: AccountState) -> None:
        credit = account.allocated + account.purchased + account.bonus + account.refunded + account.adjusted
        assert account.balance == credit - account.used - account.expired - account.reversed
        assert account.balance >= account.held - account.debt, "more is held than there is"
        never_below = ("allocated", "purchased", "bonus", "refunded", "used", "expired", "held", "debt")
        assert all(getattr(account, name) >= 0 for name in never_below), account

    def _check_chain(self, account: AccountState) -> None:
        balance, sequence = 0, 0
        moved: dict[int | None, int] = {None: 0}
        for entry in self.history(account.user_id):
            assert (entry.balance_before, entry.sequence) == (balance, sequence + 1)
            balance, sequence = entry.balance_after, entry.sequence
            moved[entry.lot] = moved.get(entry.lot, 0) + entry.amount
        assert (account.balance, account.sequence) == (balance, sequence)
        assert account.debt == -moved.pop(None)
        lots = self.lots_of(account.user_id)
        assert [lot.number for lot in lots] == list(range(1, account.lot_count + 1))
        assert {lot.number: lot.remaining for lot in lots if lot.remaining} == {
            number: amount for number, amount in moved.items() if amount
        }
        transfers = [e.amount for e in self.history(account.user_id) if e.counter is Counter.TRANSFERS]
        assert sum(transfers) == 0, "transfers come in pairs"

    def _check_lots(self, account: AccountState) -> None:
        kept: dict[int, int] = {}
        waited_for: list[datetime] = []
        for hold in self.holds_of(account.user_id):
            if hold.state is HoldState.OPEN:
                waited_for.append(hold.expires_at)
                for number, amount in hold.parts:
                    kept[number] = kept.get(number, 0) + amount
        assert sum(kept.values()) == account.held
        for lot in self.lots_of(account.user_id):
            assert lot.held == kept.get(lot.number, 0)
            assert lot.ended_at is None or not lot.free + lot.pending, "something is left of what was ended"
            if lot.pending:
                waited_for.append(lot.effective_at)
            if lot.free and lot.expires_at:
                waited_for.append(lot.expires_at)
        due = min(waited_for, default=_NEVER)
        assert (account.due_at or _NEVER) <= due, "something falls due that nobody waits for"


def after(*commands: Command, now: datetime = NOW, catalog: Catalog = SMALL_CATALOG) -> FakeLedger:
    """A ledger that has taken ``commands`` in one batch."""
    ledger = FakeLedger(catalog)
    ledger.apply(commands, now)
    return ledger


def reply_to(ledger: FakeLedger, command: Command, now: datetime = NOW) -> dict[str, Any]:
    """The one reply to one command in a batch of its own."""
    (reply,) = ledger.apply([command], now)
    return reply


def picked(reply: dict[str, Any], *names: str) -> tuple[Any, ...]:
    """Fields of a reply, None for each that it doesn't have."""
    return tuple(reply.get(name) for name in names)


def _differences(before: Any, after: Any) -> set[str]:
    names = [field.name for field in fields(before)]
    return {name for name in names if getattr(before, name) != getattr(after, name)}


# -- the constraints of the tables ------------------------------------------------------------------------


def _check_outcome(outcome: Outcome) -> None:
    assert outcome.attempt >= 1
    if outcome.is_applied:
        assert outcome.amount is not None
        assert outcome.amount >= 0
        assert outcome.balance_before is not None
        assert outcome.balance_after is not None
    else:
        assert (outcome.amount, outcome.first_entry, outcome.notices) == (None, None, ())
    if outcome.first_entry is not None or outcome.last_entry is not None:
        assert (outcome.first_entry or 0) <= (outcome.last_entry or 0)


_SIGNS: dict[Counter, Callable[[Entry], bool]] = {
    Counter.USAGE: lambda entry: entry.amount < 0 and entry.lot is not None,
    Counter.EXPIRY: lambda entry: entry.amount < 0 and entry.lot is not None,
    Counter.ALLOCATION: lambda entry: entry.amount > 0,
    Counter.PURCHASES: lambda entry: entry.amount > 0,
    Counter.BONUS: lambda entry: entry.amount > 0,
    Counter.REFUNDS: lambda entry: entry.amount > 0,
}


def _check_entry(entry: Entry) -> None:
    assert entry.sequence >= 1
    assert entry.amount != 0
    assert entry.balance_after == entry.balance_before + entry.amount
    has_its_sign = _SIGNS.get(entry.counter)
    assert has_its_sign is None or has_its_sign(entry), entry


def _check_lot(lot: Lot) -> None:
    assert lot.number >= 1
    assert lot.granted > 0
    assert 0 <= lot.held <= lot.remaining
    assert lot.pending >= 0
    assert lot.remaining + lot.pending <= lot.granted
    assert lot.expires_at is None or lot.expires_at > lot.effective_at, "it ends before it begins"


def _check_hold(hold: Hold) -> None:
    assert hold.amount > 0
    assert hold.amount == sum(amount for _, amount in hold.parts)
    assert all(amount > 0 for _, amount in hold.parts)
    assert hold.captured >= 0
    assert hold.state is HoldState.SETTLED or hold.captured == 0
    is_open = hold.state is HoldState.OPEN
    assert is_open == (hold.closed_at is None) == (hold.closed_by is None)
