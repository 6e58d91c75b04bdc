"""The decision, in one column: seen this reference? same content? known account? enough?

``decide`` answers every command of a batch in order, and lets later ones see earlier ones: a batch comes
to what its commands would have come to one by one. It reads ``Known`` and leaves it as it was.
"""

import json
from collections.abc import Sequence
from copy import copy
from datetime import datetime
from typing import assert_never

from schemas import (
    BonusCredit,
    Code,
    Command,
    DeductUsage,
    FreeUpload,
    OpenAccount,
    PaymentSucceeded,
    RefundCredit,
    Status,
)
from worker.catalog import Catalog
from worker.core.known import FREE_UPLOAD_METER, AccountState, Known, QuotaKey, QuotaState, period_start
from worker.core.outcomes import Answer, Conflict, Decided, Detail, Outcome
from worker.core.plan import Counter, Entry, Payment, Plan, QuotaEntry


def decide(commands: Sequence[Command], known: Known, now: datetime, catalog: Catalog) -> Plan:
    """What comes of ``commands``, given what is known, at ``now`` (aware, UTC)."""
    books = _Books(known, now, catalog)
    for command in commands:
        books.plan.answers.append(books.answer(command))
    return books.plan


def content_of(command: Command) -> str:
    """The canonical text of what moves the ledger; equal for the same operation, whatever the sender adds."""
    return json.dumps(command.content(), separators=(",", ":"), sort_keys=True, ensure_ascii=False)


class _Books:
    """What is known, as it stands after the commands answered so far, and the plan that led there."""

    def __init__(self, known: Known, now: datetime, catalog: Catalog) -> None:
        self.plan = Plan()
        self._known = known
        self._now = now
        self._catalog = catalog
        self._fresh: dict[str, Outcome] = {}
        self._superseded: dict[tuple[str, int], Outcome] = {}
        self._quotas: dict[QuotaKey, QuotaState] = {}

    def answer(self, command: Command) -> Answer:
        content = content_of(command)
        stored = self._stored(command.reference_id)
        if stored is None:
            outcome = self._judge(command, content)
            self.plan.outcomes.append(outcome)
            self._fresh[command.reference_id] = outcome
            return Decided(outcome, duplicate=False)
        if (command.type, command.user_id) != (stored.type, stored.user_id):
            return _conflict(command, content, stored)
        if command.attempt > stored.attempt and not stored.is_applied:
            return Decided(self._judge_anew(command, content, stored), duplicate=False)
        if command.attempt < stored.attempt:
            stored = self._attempt(command) or stored
        if content == stored.content:
            return Decided(stored, duplicate=True)
        return _conflict(command, content, stored)

    # -- the reference ------------------------------------------------------------------------------------

    def _stored(self, reference_id: str) -> Outcome | None:
        return self._fresh.get(reference_id) or self._known.outcomes.get(reference_id)

    def _attempt(self, command: Command) -> Outcome | None:
        key = (command.reference_id, command.attempt)
        return self._superseded.get(key) or self._known.superseded.get(key)

    def _judge_anew(self, command: Command, content: str, stored: Outcome) -> Outcome:
        outcome = self._judge(command, content)
        self._fresh[command.reference_id] = outcome
        self._superseded[stored.reference_id, stored.attempt] = stored
        self.plan.rejudged.append((stored, outcome))
        return outcome

    # -- the rules ----------------------------------------------------------------------------------------

    def _judge(self, command: Command, content: str) -> Outcome:
        account = self._account(command.user_id)
        if isinstance(command, OpenAccount):
            return self._open(command, content, account)
        if account is None:
            return self._rejected(command, content, Code.ACCOUNT_NOT_FOUND, None, {})
        match command:
            case DeductUsage():
                return self._deduct(command, content, account)
            case FreeUpload():
                return self._count_upload(command, content, account)
            case PaymentSucceeded():
                return self._purchase(command, content, account)
            case RefundCredit():
                return self._credit(command, content, account, Counter.REFUNDS, Code.TOKENS_REFUNDED)
            case BonusCredit():
                return self._credit(command, content, account, Counter.BONUS, Code.BONUS_GRANTED)
            case _:
                assert_never(command)

    def _open(self, command: OpenAccount, content: str, account: AccountState | None) -> Outcome:
        if account is not None:
            return self._rejected(command, content, Code.ACCOUNT_EXISTS, account, {"tier": account.tier})
        tier = self._catalog.tiers.get(command.tier)
        if tier is None:
            return self._rejected(command, content, Code.UNKNOWN_TIER, None, {"tier": command.tier})
        account = self._opened(command.user_id, command.tier)
        outcome = self._applied(command, content, Code.ACCOUNT_OPENED, account, tier.monthly_tokens)
        outcome.detail = {"tier": command.tier}
        self._post(outcome, account, Counter.ALLOCATION, tier.monthly_tokens)
        return outcome

    def _deduct(self, command: DeductUsage, content: str, account: AccountState) -> Outcome:
        if command.tokens > account.balance:
            shortage = _shortage(command.tokens, account.balance)
            return self._rejected(command, content, Code.INSUFFICIENT_BALANCE, account, shortage)
        outcome = self._applied(command, content, Code.TOKENS_DEDUCTED, account, command.tokens)
        self._post(outcome, account, Counter.USAGE, -command.tokens, command.feature)
        return outcome

    def _count_upload(self, command: FreeUpload, content: str, account: AccountState) -> Outcome:
        tier = self._catalog.tiers.get(account.tier)
        if tier is None:
            return self._rejected(command, content, Code.UNKNOWN_TIER, account, {"tier": account.tier})
        key = QuotaKey(account.account_id, FREE_UPLOAD_METER, period_start(self._now))
        quota = self._quota(key)
        limit = {"limit": tier.free_upload_bytes}
        # A limit that was lowered leaves more used than allowed; what is available is then nothing.
        available = max(tier.free_upload_bytes - quota.used, 0)
        if command.bytes > available:
            shortage = _shortage(command.bytes, available) | limit | {"used": quota.used}
            return self._rejected(command, content, Code.FREE_UPLOAD_LIMIT_EXCEEDED, account, shortage)
        outcome = self._applied(command, content, Code.FREE_UPLOAD_COUNTED, account, command.bytes)
        self._count(outcome, key, quota, command.bytes)
        outcome.detail = limit | {"used": quota.used}
        return outcome

    def _purchase(self, command: PaymentSucceeded, content: str, account: AccountState) -> Outcome:
        package = self._catalog.package(command.package_id, command.package_index)
        if package is None:
            named = command.package_id if command.package_id is not None else f"#{command.package_index}"
            return self._rejected(command, content, Code.UNKNOWN_PACKAGE, account, {"package_id": named})
        price = f"{package.price_minor} {package.currency}"
        paid = f"{command.amount_minor} {command.currency}"
        if paid != price:
            mismatch = {"package_id": package.id, "expected": price, "received": paid}
            return self._rejected(command, content, Code.AMOUNT_MISMATCH, account, mismatch)
        total = package.tokens + package.bonus_tokens
        outcome = self._applied(command, content, Code.TOKENS_PURCHASED, account, total)
        outcome.detail = {
            "package_id": package.id,
            "base_tokens": package.tokens,
            "bonus_tokens": package.bonus_tokens,
        }
        self._post(outcome, account, Counter.PURCHASES, package.tokens)
        self._post(outcome, account, Counter.BONUS, package.bonus_tokens)
        self.plan.payments.append(
            Payment(
                outcome=outcome,
                account_id=account.account_id,
                package_id=package.id,
                amount_minor=command.amount_minor,
                currency=command.currency,
                base_tokens=package.tokens,
                bonus_tokens=package.bonus_tokens,
                provider=command.provider,
                recorded_at=self._now,
            )
        )
        return outcome

    def _credit(
        self,
        command: RefundCredit | BonusCredit,
        content: str,
        account: AccountState,
        counter: Counter,
        code: Code,
    ) -> Outcome:
        outcome = self._applied(command, content, code, account, command.tokens)
        self._post(outcome, account, counter, command.tokens)
        return outcome

    # -- the working copy ---------------------------------------------------------------------------------

    def _account(self, user_id: str) -> AccountState | None:
        if (moved := self.plan.accounts.get(user_id)) is not None:
            return moved[0]
        if user_id in self._known.just_opened and user_id not in self.plan.opened:
            return None
        stored = self._known.accounts.get(user_id)
        if stored is None:
            return None
        account = copy(stored)
        self.plan.accounts[user_id] = (account, stored.sequence)
        return account

    def _opened(self, user_id: str, tier: str) -> AccountState:
        account = copy(self._known.accounts[user_id])
        account.tier = tier
        self.plan.accounts[user_id] = (account, account.sequence)
        self.plan.opened.add(user_id)
        return account

    def _quota(self, key: QuotaKey) -> QuotaState:
        if key not in self._quotas:
            self._quotas[key] = copy(self._known.quotas.get(key, QuotaState()))
        return self._quotas[key]

    def _applied(
        self, command: Command, content: str, code: Code, account: AccountState, amount: int
    ) -> Outcome:
        return self._outcome(command, content, Status.APPLIED, code, account, amount)

    def _rejected(
        self, command: Command, content: str, code: Code, account: AccountState | None, detail: Detail
    ) -> Outcome:
        outcome = self._outcome(command, content, Status.REJECTED, code, account, None)
        outcome.detail = detail
        return outcome

    def _outcome(
        self,
        command: Command,
        content: str,
        status: Status,
        code: Code,
        account: AccountState | None,
        amount: int | None,
    ) -> Outcome:
        balance = None if account is None else account.balance
        return Outcome(
            reference_id=command.reference_id,
            type=command.type,
            user_id=command.user_id,
            attempt=command.attempt,
            content=content,
            status=status,
            code=code,
            recorded_at=self._now,
            amount=amount,
            balance_before=balance,
            balance_after=balance,
            occurred_at=command.occurred_at,
            metadata=command.metadata,
            description=command.description,
        )

    def _post(
        self,
        outcome: Outcome,
        account: AccountState,
        counter: Counter,
        amount: int,
        feature: str | None = None,
    ) -> None:
        """One entry, and the account with it: the only place where a balance changes."""
        if amount == 0:
            return
        before = account.balance
        account.balance = before + amount
        account.sequence += 1
        match counter:
            case Counter.USAGE:
                account.used -= amount
            case Counter.PURCHASES:
                account.purchased += amount
            case Counter.BONUS:
                account.bonus += amount
            case Counter.REFUNDS:
                account.refunded += amount
            case Counter.ALLOCATION:
                account.allocated += amount
            case _:
                assert_never(counter)
        outcome.balance_after = account.balance
        self.plan.entries.append(
            Entry(
                account_id=account.account_id,
                sequence=account.sequence,
                outcome=outcome,
                counter=counter,
                amount=amount,
                balance_before=before,
                balance_after=account.balance,
                feature=feature,
                occurred_at=outcome.occurred_at or self._now,
                recorded_at=self._now,
            )
        )

    def _count(self, outcome: Outcome, key: QuotaKey, quota: QuotaState, amount: int) -> None:
        before = quota.used
        quota.used += amount
        quota.sequence += 1
        self.plan.quota_entries.append(
            QuotaEntry(key, quota.sequence, outcome, amount, before, quota.used, self._now)
        )


def _shortage(required: int, available: int) -> dict[str, int | str]:
    return {"required": required, "available": available, "shortfall": required - available}


def _conflict(command: Command, content: str, stored: Outcome) -> Conflict:
    if command.type != stored.type:
        return Conflict("type", stored.type, command.type)
    if command.user_id != stored.user_id:
        return Conflict("userId", stored.user_id, command.user_id)
    had, has = json.loads(stored.content), json.loads(content)
    field = next(name for name in sorted(had.keys() | has.keys()) if had.get(name) != has.get(name))
    return Conflict(field, str(had.get(field, "absent")), str(has.get(field, "absent")))
