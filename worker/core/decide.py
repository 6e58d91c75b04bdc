"""The decision, in one column: seen this reference? same content? known account? in time? what says its rule?

``decide`` answers every command of a batch in order, and lets later ones see earlier ones: a batch has the
same result as its commands one by one. It reads ``Known`` and doesn't change it.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import assert_never

from schemas import (
    AdjustCredit,
    BonusCredit,
    CancelSubscription,
    ChangeSubscription,
    Code,
    Command,
    CommandAboutPayment,
    DeductUsage,
    DisputeClosed,
    ExtendUsage,
    FreeUpload,
    FreezeAccount,
    FreezingCommand,
    ImportAccount,
    OpenAccount,
    OpeningCommand,
    PaymentDisputed,
    PaymentFailed,
    PaymentNamed,
    PaymentRefunded,
    PaymentSucceeded,
    RecordUsage,
    RefundCredit,
    RefundFailed,
    ReleaseUsage,
    RenewSubscription,
    ReserveUsage,
    SettleAccount,
    SettleUsage,
    Status,
    UnfreezeAccount,
    UsageWithDeadline,
    type_of,
)
from worker.catalog import Catalog
from worker.core.account import Account
from worker.core.contents import command_of, content_of, first_difference, kept_of
from worker.core.due import post_due, post_freed
from worker.core.erased import is_erased, without_erased_user
from worker.core.known import (
    AccountState,
    Happened,
    Hold,
    Known,
    Lot,
    Payment,
    PaymentEvent,
    PaymentName,
    opened_by_use,
)
from worker.core.lots import notice_due_at
from worker.core.needs import names_of
from worker.core.notices import write_notices
from worker.core.outcomes import Answer, Conflict, Decided, Outcome, moves_nothing
from worker.core.periods import period_at
from worker.core.plan import ImportedAccount, Plan
from worker.core.rules import credit, freezing, holds, imports, payments, subscriptions, usage
from worker.core.rules.decisions import Context, Decision, applied, rejected
from worker.core.superseded import (
    ABOUT_PAYMENTS,
    ATTEMPTS_AHEAD_MAX,
    Superseded,
    may_supersede,
    owner_of,
)


def decide(commands: Sequence[Command], known: Known, now: datetime, catalog: Catalog) -> Plan:
    """Return the plan for ``commands``, given what is ``known``, at ``now`` (aware, UTC)."""
    batch = _Batch(known, now, catalog)
    for command in commands:
        batch.plan.answers.append(batch.answer(command))
    return batch.closed()


def account_now(
    state: AccountState, lots: Sequence[Lot], holds: Sequence[Hold], now: datetime, catalog: Catalog
) -> Account:
    """Return the account at ``now`` with all that is due posted; the arguments are not changed."""
    account = Account(state, lots, holds, catalog, now).branch()
    if account.is_due:
        post_due(account, _outcome_of(SettleAccount(reference_id="look", user_id=state.user_id), "{}", now))
    return account


class _Batch:
    """State of the ledger after the commands answered so far, and the plan that led to it."""

    def __init__(self, known: Known, now: datetime, catalog: Catalog) -> None:
        self.plan = Plan()
        self._known = known
        self._now = now
        self._catalog = catalog
        self._notice_days = catalog.notices.expiring_days
        self._notice_time = timedelta(days=self._notice_days)
        self._fresh: dict[str, Outcome] = {}
        self._context = Context(known, self._fresh, now, catalog)
        self._superseded = Superseded(dict(known.superseded.attempts), dict(known.superseded.lost))
        self._accounts: dict[str, Account] = {}
        #: Payments of this batch whose users had no account, by the user.
        self._unopened: dict[str, list[Outcome]] = {}

    def answer(self, command: Command) -> Answer:
        if self._known.erased:
            if is_erased(command, self._known.erased):
                return self._answer_erased(command)
            command = without_erased_user(command, self._known.erased)
        content = content_of(command, self._catalog)
        stored = self._context.outcome_of(command.reference_id)
        if stored is None:
            return self._answer_first(command, content)
        if owner_of(command) != owner_of(stored):
            return self._answer_other(command, content, stored)
        if command.attempt > stored.attempt + ATTEMPTS_AHEAD_MAX:
            return _too_far_ahead(command, stored.attempt)
        if command.attempt > stored.attempt and not stored.is_applied:
            return Decided(self._judge_anew(command, content, stored), duplicate=False)
        if command.attempt < stored.attempt:
            stored = self._outcome_for_earlier(command, content, stored)
        if first_difference(content, stored, self._catalog) is None:
            self._learn_names(command, stored)
            return Decided(stored, duplicate=True)
        return self._conflict(command, content, stored)

    def _outcome_for_earlier(self, command: Command, content: str, stored: Outcome) -> Outcome:
        """Return the outcome for a copy of an earlier attempt: its own, unless the same is applied by now."""
        own = self._superseded.attempt_of(command)
        if own is None:
            return stored
        is_applied_anew = stored.is_applied and all(
            first_difference(content, outcome, self._catalog) is None for outcome in (own, stored)
        )
        return stored if is_applied_anew else own

    def closed(self) -> Plan:
        """Return the plan, with the rows that were written about every account."""
        plan = self.plan
        for account in self._accounts.values():
            account.add_to(plan)
        if self._context.names:
            plan.names = list(self._context.names.values())
        if plan.waiting and plan.taken_in:
            plan.waiting = [event for event in plan.waiting if event.reference_id not in plan.taken_in]
        return plan

    # -- the reference ------------------------------------------------------------------------------------

    def _answer_first(self, command: Command, content: str) -> Answer:
        """Answer a command whose reference has no outcome in force."""
        superseded = self._superseded
        if superseded.lost and (lost := superseded.lost_under(command.reference_id)) is not None:
            if owner_of(lost) == owner_of(command):
                return self._answer_lost(command, content, lost)
            if not may_supersede(command.type, lost):
                return self._conflict(command, content, lost)
        if command.attempt > ATTEMPTS_AHEAD_MAX:
            return _too_far_ahead(command, 0)
        return self._answer_new(command, content)

    def _answer_other(self, command: Command, content: str, stored: Outcome) -> Answer:
        """Answer a command whose reference has the outcome of another type or user."""
        own = self._superseded.lost_by(command)
        if own is not None and first_difference(content, own, self._catalog) is None:
            return Decided(own, duplicate=True)
        if not may_supersede(command.type, stored):
            return self._conflict(command, content, stored)
        if command.attempt > stored.attempt + ATTEMPTS_AHEAD_MAX:
            return _too_far_ahead(command, stored.attempt)
        self._take(stored)
        return self._answer_new(command, content)

    def _take(self, stored: Outcome) -> None:
        """Take the reference of an outcome that moved nothing."""
        self.plan.taken.append(stored)
        self._superseded.add_lost(stored)

    def _answer_lost(self, command: Command, content: str, lost: Outcome) -> Answer:
        """Answer a usage whose reference is taken, by a command that isn't in the ledger yet."""
        if first_difference(content, lost, self._catalog) is not None:
            return self._conflict(command, content, lost)
        own = self._superseded.lost_by(command)
        if own is None:
            return Conflict("attempt", f"at most {lost.attempt}", str(command.attempt))
        return Decided(own, duplicate=True)

    def _answer_erased(self, command: Command) -> Answer:
        """Refuse a command of an erased user: no row keeps that, or the id would be back."""
        self.plan.erased.add(len(self.plan.answers))
        outcome = _refused(_outcome_of(command, "{}", self._now), rejected(Code.ACCOUNT_NOT_FOUND))
        return Decided(outcome, duplicate=False)

    def _answer_new(self, command: Command, content: str) -> Answer:
        outcome = self._judge(command, content)
        self.plan.outcomes.append(outcome)
        self._fresh[command.reference_id] = outcome
        return Decided(outcome, duplicate=False)

    def _judge_anew(self, command: Command, content: str, stored: Outcome) -> Outcome:
        outcome = self._judge(command, content, stored.user_id)
        outcome.user_id = stored.user_id  # an operation stays where it is, and so does what waits with it
        for event in self.plan.waiting:
            if event.reference_id == outcome.reference_id:
                event.user_id = stored.user_id or None
        self._fresh[command.reference_id] = outcome
        self._superseded.add_attempt(stored)
        self.plan.rejudged.append((stored, outcome))
        return outcome

    # -- the account --------------------------------------------------------------------------------------

    def _judge(self, command: Command, content: str, owner: str | None = None) -> Outcome:
        """Judge a command; its reference is the ``owner``'s already where it is judged anew."""
        outcome = _outcome_of(command, content, self._now)
        if isinstance(command, PaymentNamed):
            return self._judge_naming(command, outcome, owner)
        if command.type in ABOUT_PAYMENTS and (name := _payment_named_by(command)) is not None:
            return self._judge_about_payment(command, name, outcome, owner)
        outcome = self._judge_of_user(command, outcome)
        if isinstance(command, PaymentSucceeded) and not outcome.is_applied:
            outcome.detail = {**outcome.detail, **kept_of(command)}
            if outcome.code is Code.ACCOUNT_NOT_FOUND:
                self._unopened.setdefault(command.user_id, []).append(outcome)
        return outcome

    def _judge_of_user(self, command: Command, outcome: Outcome) -> Outcome:
        account = self._account(command.user_id)
        if account is not None:
            return self._judge_with(account, command, outcome)
        if isinstance(command, OpenAccount):
            return self._open(command, outcome)
        if isinstance(command, ImportAccount):
            return self._import(command, outcome)
        return self._judge_first(command, outcome)

    def _judge_about_payment(
        self, command: Command, name: str, outcome: Outcome, owner: str | None
    ) -> Outcome:
        """Judge a command about a payment, for the payment's user; without one it waits.

        One whose reference is another ``owner``'s, by an earlier attempt, waits to be taken in as well.
        """
        payment = self._context.payment_named(name)
        if payment is not None and owner not in (None, payment.user_id):
            payment = None
        account = None if payment is None else self._account(payment.user_id)
        is_counted = False
        if payment is not None and account is not None:
            # A crash came between its wait and its outcome; the payment has taken it in since.
            is_counted = self._context.is_counted(command.reference_id, payment, account)
            if not is_counted:
                outcome.user_id = payment.user_id
                return self._judge_with(account, command, outcome)
        if self._is_no_payment(name):
            return _refused(outcome, rejected(Code.ORIGINAL_NOT_FOUND, original_reference_id=name))
        if not is_counted:
            self._wait(_event_of(command, name, self._now))
        outcome.code, outcome.amount = Code.PAYMENT_AWAITED, 0
        outcome.balance_before = outcome.balance_after = 0  # of no account
        outcome.detail = _detail_of(command, name)
        return outcome

    def _is_no_payment(self, name: str) -> bool:
        """Return True for the reference of another operation.

        Usage that moved nothing gives it up when the payment comes. A payment of another slot may have just
        come: then what names it waits, and is taken in.
        """
        original = self._context.outcome_of(name)
        return original is not None and not original.moved_nothing and original.type not in _PAYMENTS

    def _judge_naming(self, command: PaymentNamed, outcome: Outcome, owner: str | None) -> Outcome:
        """Judge a command that gives a payment more names; without a payment they are the same from now on.

        What waits under them counts at once where the account is at hand, else with its next settlement.
        """
        context, name, names = self._context, command.original_reference_id, names_of(command)
        owners = context.payments_of(names)
        if len(owners) > 1:
            return _refused(outcome, rejected(Code.REFERENCE_TAKEN, original_reference_id=owners[1].name))
        if context.without_payment([name]) and self._is_no_payment(name):
            return _refused(outcome, rejected(Code.ORIGINAL_NOT_FOUND, original_reference_id=name))
        payment = context.payment_named(owners[0].name) if owners else None
        account = None if payment is None else self._account(payment.user_id)
        if payment is not None and account is not None and owner in (None, payment.user_id):
            outcome.user_id = payment.user_id
            return self._judge_with(account, command, outcome)
        self._teach(names)
        outcome.code, outcome.amount = Code.PAYMENT_NAMED, 0
        outcome.balance_before = outcome.balance_after = 0  # of no account
        outcome.detail = {"original_reference_id": name}
        return outcome

    def _teach(self, names: Iterable[str]) -> None:
        """Give the names that nobody has to the payment of the others; without one they are the same."""
        context = self._context
        owners, free = context.payments_of(names), context.without_payment(names)
        match owners:
            case [] if free:
                context.join(free)
            case [PaymentName(payment_reference=str() as reference, user_id=str() as user_id)] if free:
                context.bind_to(free, reference, user_id)

    def _wait(self, event: PaymentEvent) -> None:
        """Let an event wait, unless a crash left it waiting without its outcome."""
        if any(known.reference_id == event.reference_id for known in self._known.waiting.get(event.name, ())):
            return
        self.plan.waiting.append(event)
        self._context.waiting.setdefault(event.name, []).append(event)

    def _try_unopened_payments(self, user_id: str) -> None:
        """Judge the payments anew that came before the account of their user was open."""
        known = () if user_id not in self.plan.opened else self._known.unopened_payments.get(user_id, ())
        early = (*known, *self._unopened.pop(user_id, ()))
        latest = {one.reference_id: self._context.outcome_of(one.reference_id) or one for one in early}
        # In one order, however the payments were cut into batches.
        for stored in sorted(latest.values(), key=lambda one: (one.recorded_at, one.reference_id)):
            if stored.is_applied or stored.code is not Code.ACCOUNT_NOT_FOUND or stored.type != _PAYMENT:
                continue
            command = command_of(stored, stored.attempt + 1)
            self._judge_anew(command, stored.content, stored)

    def _learn_names(self, command: Command, stored: Outcome) -> None:
        """Let a copy of a payment, or of more names for one, give it those that nobody has."""
        if isinstance(command, PaymentNamed) and stored.is_applied:
            self._teach(names_of(command))
        if not isinstance(command, PaymentSucceeded):
            return
        context, all_names = self._context, names_of(command)
        if not stored.is_applied:
            # It has them when it is judged anew; meanwhile what comes under one of them finds the others.
            if stored.code is not Code.REFERENCE_TAKEN and context.without_payment(all_names[:1]):
                context.join(context.without_payment(all_names))
            return
        # After a crash behind the commit of a distributed ledger its own name is not bound yet.
        payment = context.payment_named(command.reference_id) or context.known.payments.get(
            command.reference_id
        )
        if payment is not None:
            context.bind(context.without_payment(all_names), payment)

    def _judge_first(self, command: Command, outcome: Outcome) -> Outcome:
        """Judge a command of a user without an account, which it may open; also where it is rejected then.

        The allocation falls due with the opening: it is posted by the first command that moves something.
        """
        tier = None
        if isinstance(command, OpeningCommand):
            tier = self._catalog.auto_open if command.open_tier is None else command.open_tier
        if tier is None:
            return _refused(outcome, rejected(Code.ACCOUNT_NOT_FOUND))
        if tier not in self._catalog.tiers:
            return _refused(outcome, rejected(Code.UNKNOWN_TIER, tier=tier))
        row = self._known.accounts[command.user_id]
        state = opened_by_use(row.account_id, row.user_id, tier, self._now)
        account = self._accounts[command.user_id] = Account(state, (), (), self._catalog, self._now)
        account.change()
        self.plan.opened.add(command.user_id)
        outcome = self._judge_with(account, command, outcome)
        outcome.detail = {**outcome.detail, "opened_tier": tier}
        self._try_unopened_payments(command.user_id)
        return outcome

    def _judge_with(self, account: Account, command: Command, outcome: Outcome) -> Outcome:
        self._context.judge(outcome)
        if account.is_due:
            # What is due is posted with an applied command; a refusal leaves nothing behind.
            account = account.branch()
            account.begin()
            post_due(account, outcome)
        else:
            account.begin()
        outcome.balance_before = account.state.balance
        decision = (
            self._too_late(command)
            or freezing.refusal(account, command)
            or self._decision(command, account, outcome)
        )
        if decision.amount is None:
            return _refused(outcome, decision, account)
        if moves_nothing(decision.code, decision.amount, decision.detail):
            # What is due waits for a command that moves something: usage of nothing never owns an entry.
            return _moved_nothing(outcome, decision, account)
        self._accounts[account.state.user_id] = account
        return _carried_out(outcome, decision, account)

    def _open(self, command: OpenAccount, outcome: Outcome) -> Outcome:
        tier = self._catalog.tiers.get(command.tier)
        if tier is None:
            return _refused(outcome, rejected(Code.UNKNOWN_TIER, tier=command.tier))
        row = self._known.accounts[command.user_id]
        first = period_at(self._now, self._now)
        state = AccountState(row.account_id, row.user_id, command.tier, self._now, first.end)
        account = self._accounts[command.user_id] = Account(state, (), (), self._catalog, self._now)
        self.plan.opened.add(command.user_id)
        outcome.balance_before = 0
        self._context.judge(outcome)
        outcome = _carried_out(outcome, subscriptions.open_account(account, command, outcome, tier), account)
        self._try_unopened_payments(command.user_id)
        return outcome

    def _too_late(self, command: Command) -> Decision | None:
        """Return the refusal of usage that its sender has given up by now."""
        if not isinstance(command, UsageWithDeadline) or command.valid_until is None:
            return None
        if self._now <= command.valid_until:
            return None
        return rejected(Code.TOO_LATE, valid_until=command.valid_until.isoformat())

    def _import(self, command: ImportAccount, outcome: Outcome) -> Outcome:
        """Open the account as it was, then post what has fallen due since."""
        references = [payment.reference_id for payment in command.payments]
        refused = imports.refusal(command, self._context) or self._taken_reference(references)
        if refused is not None:
            return _refused(outcome, refused)
        for reference in references:
            if (stored := self._context.outcome_of(reference)) is not None:
                self._take(stored)
        row = self._known.accounts[command.user_id]
        until = imports.present_period(command).end
        state = AccountState(row.account_id, row.user_id, command.tier, command.anchor, until)
        account = self._accounts[command.user_id] = Account(state, (), (), self._catalog, self._now)
        paid = [imports.payment_outcome(command, payment, self._now) for payment in command.payments]
        self._context.judge(outcome)
        decision = imports.import_account(account, command, outcome, paid, self._context)
        has_own_entries = outcome.first_entry is not None
        post_due(account, outcome)
        if not has_own_entries:
            outcome.balance_before = account.state.balance
        self.plan.opened.add(command.user_id)
        self.plan.imported.append(ImportedAccount(command.user_id, command.opened_at, outcome, paid))
        self.plan.outcomes += paid
        self._fresh.update(zip(references, paid, strict=True))
        outcome = _carried_out(outcome, decision, account)
        self._try_unopened_payments(command.user_id)
        return outcome

    def _taken_reference(self, references: Iterable[str]) -> Decision | None:
        """Return the refusal of references of which one names an operation that moved something."""
        for reference in references:
            stored = self._context.outcome_of(reference)
            if stored is not None and not may_supersede(imports.PAYMENT_IMPORT, stored):
                return rejected(Code.REFERENCE_TAKEN, original_reference_id=reference)
            if (refused := payments.name_taken(reference, (), self._context)) is not None:
                return refused
        return None

    def _decision(self, command: Command, account: Account, outcome: Outcome) -> Decision:
        context = self._context
        match command:
            case DeductUsage():
                return usage.deduct(account, command, outcome)
            case FreeUpload():
                return usage.count_upload(account, command, outcome, context)
            case RecordUsage():
                return usage.record(account, command, outcome, context)
            case ReserveUsage():
                return holds.reserve(account, command, outcome, context)
            case ExtendUsage():
                return holds.extend(account, command, context)
            case SettleUsage():
                return holds.capture(account, command, outcome)
            case ReleaseUsage():
                return holds.release(account, command, outcome)
            case PaymentSucceeded():
                return payments.purchase(account, command, outcome, context)
            case PaymentNamed():
                payment = self._payment_of(context.payments_of(names_of(command))[0].name)
                return payments.name(account, payment, command, context)
            case PaymentRefunded() | RefundFailed() | PaymentDisputed() | DisputeClosed() | PaymentFailed():
                payment = self._payment_of(command.original_reference_id)
                return payments.reverse(account, payment, command, outcome, context)
            case FreezeAccount() | UnfreezeAccount():
                return freezing.decide_freezing(account, command)
            case RefundCredit():
                return credit.refund(account, command, outcome, context)
            case BonusCredit():
                return credit.bonus(account, command, outcome, context)
            case AdjustCredit():
                return credit.adjust(account, command, outcome, context)
            case ChangeSubscription():
                return subscriptions.change(account, command, outcome, context)
            case RenewSubscription():
                return subscriptions.renew(account, command, outcome, context)
            case CancelSubscription():
                return subscriptions.cancel(account, command, outcome, context)
            case SettleAccount():
                payments.take_in_one(account, context)
                return applied(Code.ACCOUNT_SETTLED, 0)
            case OpenAccount() | ImportAccount():
                return rejected(Code.ACCOUNT_EXISTS, tier=account.state.tier)
            case _:
                assert_never(command)

    def _payment_of(self, name: str) -> Payment:
        payment = self._context.payment_named(name)
        if payment is None:
            raise AssertionError(f"no payment {name!r}")
        return payment

    def _conflict(self, command: Command, content: str, stored: Outcome) -> Conflict:
        if command.type != stored.type:
            return Conflict("type", stored.type, command.type)
        if owner_of(command) != owner_of(stored):
            return Conflict("userId", stored.user_id, command.user_id)
        difference = first_difference(content, stored, self._catalog)
        if difference is None:
            raise AssertionError("no conflict")
        return Conflict(*difference)

    def _account(self, user_id: str) -> Account | None:
        account = self._accounts.get(user_id)
        if account is not None:
            return account
        state = self._known.accounts.get(user_id)
        if state is None or user_id in self._known.just_opened:
            return None
        lots = [lot.clone() for lot in self._known.lots.get(state.account_id, ())]
        holds = [hold.clone() for hold in self._known.holds.get(state.account_id, ())]
        account = Account(state.clone(), lots, holds, self._catalog, self._now)
        if (at := self._earlier_notice(lots, state.due_at)) is not None:
            # The account waits for a later time, which a catalog with fewer notice days gave it.
            account.bring_forward(at)
        self._accounts[user_id] = account
        return account

    def _earlier_notice(self, lots: Iterable[Lot], due_at: datetime | None) -> datetime | None:
        """Return when the first notice is due before ``due_at``; None where there is none."""
        first: datetime | None = None
        for lot in lots:
            ends = lot.expires_at
            if ends is None or (due_at is not None and ends - due_at >= self._notice_time):
                continue
            at = notice_due_at(lot, self._notice_days)
            if at is not None and self._now < ends and (first is None or at < first):
                first = at
        return first


_PAYMENT = type_of(PaymentSucceeded)
_PAYMENTS = (_PAYMENT, imports.PAYMENT_IMPORT)


def _payment_named_by(command: Command) -> str | None:
    """Return the name of the payment that ``command`` is about; None for all that is about a user."""
    match command:
        case CommandAboutPayment():
            return command.original_reference_id
        case FreezingCommand():
            return command.payment_reference_id
    return None


def _event_of(command: Command, name: str, now: datetime) -> PaymentEvent:
    """Return the event that waits for its payment."""
    match command:
        case PaymentRefunded() | RefundFailed() | PaymentDisputed() | DisputeClosed() | PaymentFailed():
            return payments.event_of(command, now)
        case FreezeAccount() | UnfreezeAccount():
            happened = Happened.FROZEN if isinstance(command, FreezeAccount) else Happened.UNFROZEN
            return PaymentEvent(command.reference_id, name, happened, now, occurred_at=command.occurred_at)
    raise AssertionError(f"{command.type} is about no payment")


def _detail_of(command: Command, name: str) -> dict[str, int | str]:
    match command:
        case PaymentRefunded() | RefundFailed() | PaymentDisputed() | DisputeClosed() | PaymentFailed():
            return payments.detail_of(command)
    return {"original_reference_id": name, "payment_reference_id": name}


def _outcome_of(command: Command, content: str, now: datetime) -> Outcome:
    """Return the outcome of ``command``, yet to be filled in."""
    return Outcome(
        command.reference_id,
        command.type,
        command.user_id,
        command.attempt,
        content,
        Status.APPLIED,
        Code.UNPROCESSABLE,
        now,
        occurred_at=command.occurred_at,
        metadata=command.metadata,
        description=command.description,
    )


def _refused(outcome: Outcome, decision: Decision, account: Account | None = None) -> Outcome:
    outcome.status, outcome.code = Status.REJECTED, decision.code
    outcome.first_entry = outcome.last_entry = None
    outcome.balance_after = outcome.balance_before
    if account is not None:
        account.begin()  # the command that posts what has expired says so, once
    outcome.detail = decision.detail if account is None else {**decision.detail, **_withheld(account)}
    return outcome


def _moved_nothing(outcome: Outcome, decision: Decision, account: Account) -> Outcome:
    """Fill in an applied usage of nothing: what is due counts in its balances and is not posted by it."""
    outcome.code, outcome.amount = decision.code, decision.amount
    outcome.first_entry = outcome.last_entry = None
    outcome.balance_after = outcome.balance_before
    account.begin()  # the command that posts what has expired says so, once
    outcome.detail = {**decision.detail, **_withheld(account)}
    return outcome


def _carried_out(outcome: Outcome, decision: Decision, account: Account) -> Outcome:
    outcome.code, outcome.amount = decision.code, decision.amount
    post_freed(account, outcome)
    outcome.notices = write_notices(account)
    outcome.balance_after = account.state.balance
    state = account.state
    if state.held or state.debt or account.expired_now:
        outcome.detail = {**decision.detail, **_withheld(account)}
    else:
        outcome.detail = decision.detail
    return outcome


def _withheld(account: Account) -> Mapping[str, int]:
    """Return the tokens held, owed and expired that the caller should know; zeros are left out."""
    withheld = {"held": account.state.held, "debt": account.state.debt, "expired": account.expired_now}
    return {name: tokens for name, tokens in withheld.items() if tokens}


def _too_far_ahead(command: Command, stored: int) -> Conflict:
    return Conflict("attempt", f"at most {stored + ATTEMPTS_AHEAD_MAX}", str(command.attempt))
