"""Small worlds: a catalog, commands made up by Hypothesis, and a ledger in memory that holds them.

``commands()`` are valid in every way a producer may think of, for the border; ``crowded_commands()`` meet
each other on few users and few references, for the rules. ``FakeLedger`` loads and writes as
``worker/ledger/store.py`` does and refuses what the tables' constraints refuse.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from copy import copy, deepcopy
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from schemas import (
    BonusCredit,
    Command,
    DeductUsage,
    FreeUpload,
    Limits,
    OpenAccount,
    PaymentSucceeded,
    RefundCredit,
)
from worker.catalog import Catalog
from worker.core import (
    AccountState,
    Entry,
    Known,
    Outcome,
    Payment,
    Plan,
    QuotaEntry,
    QuotaKey,
    decide,
    reply_for,
)
from worker.core.known import FREE_UPLOAD_METER, QuotaState, period_start

NOW = datetime(2026, 11, 22, 10, 15, tzinfo=UTC)
LIMITS = Limits()

settings.register_profile(
    "ci",
    derandomize=True,
    deadline=None,
    print_blob=False,
    suppress_health_check=[HealthCheck.too_slow],
)


def examples(count: int) -> settings:
    """The settings of a property: the same ``count`` examples on every run, however slow the machine."""
    return settings(settings.get_profile("ci"), max_examples=count)


#: Few tokens and few bytes, so that balances run dry and limits are reached within a handful of commands.
SMALL_CATALOG = Catalog.model_validate(
    {
        "tiers": {
            "free": {"monthly_tokens": 100, "free_upload_bytes": 50},
            "pro": {"monthly_tokens": 250, "free_upload_bytes": 80},
            "empty": {"monthly_tokens": 0, "free_upload_bytes": 0},
        },
        "packages": [
            {"id": "plain", "tokens": 60, "price_minor": 499, "currency": "USD"},
            {"id": "rich", "tokens": 90, "bonus_tokens": 10, "price_minor": 999, "currency": "EUR"},
        ],
    }
)


# -- commands that a producer may send --------------------------------------------------------------------


def identifiers(max_size: int = 200) -> st.SearchStrategy[str]:
    """Names as ``schemas.fields.Identifier`` takes them, in any script, with spaces inside."""
    visible = st.characters(exclude_categories=("C", "Z"), codec="utf-8")
    words = st.text(visible, min_size=1, max_size=12)
    return st.one_of(
        words,
        st.builds(" ".join, st.lists(words, min_size=1, max_size=3)),
        st.text(visible, min_size=max_size, max_size=max_size),
    )


def labels() -> st.SearchStrategy[str]:
    """What statistics group by."""
    return identifiers(64)


def free_texts() -> st.SearchStrategy[str]:
    """Text for people, perhaps empty."""
    visible = st.characters(exclude_categories=("C", "Zl", "Zp"), codec="utf-8")
    return st.text(visible, max_size=40) | st.text(visible, min_size=500, max_size=500)


def timestamps(now: datetime = NOW, limits: Limits = LIMITS) -> st.SearchStrategy[datetime]:
    """Aware times that are neither too old nor too far ahead, at any offset."""
    zones = st.integers(-14 * 60, 14 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))
    moments = st.datetimes(
        min_value=(now - limits.occurred_at_max_age).replace(tzinfo=None),
        max_value=(now + limits.occurred_at_max_ahead).replace(tzinfo=None),
        timezones=st.just(UTC),
    )
    return st.builds(lambda moment, zone: moment.astimezone(zone), moments, zones)


def metadata() -> st.SearchStrategy[dict[str, Any]]:
    """Small and flat."""
    values = st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | free_texts()
    return st.dictionaries(labels(), values, max_size=16)


def quantities(limits: Limits = LIMITS) -> st.SearchStrategy[int]:
    """Tokens, bytes or minor units of money, up to the configured maximum."""
    return st.integers(1, limits.max_quantity) | st.just(limits.max_quantity) | st.just(1)


def _made(model: type[Command], **fields: st.SearchStrategy[Any]) -> st.SearchStrategy[Command]:
    """``st.builds``, but blind to the model's signature, which shows the names on the wire."""
    return st.fixed_dictionaries(fields).map(lambda values: model(**values))


def commands(now: datetime = NOW, limits: Limits = LIMITS) -> st.SearchStrategy[Command]:
    """Every type, every field, from the plainest to the strangest that is still valid."""
    common: dict[str, st.SearchStrategy[Any]] = {
        "reference_id": identifiers(),
        "user_id": identifiers(),
        "occurred_at": st.none() | timestamps(now, limits),
        "metadata": st.none() | metadata(),
        "attempt": st.integers(1, 1_000_000),
        "description": st.none() | free_texts(),
    }
    tokens = quantities(limits)
    payment = {
        "amount_minor": tokens,
        "currency": st.text("ABCDEFGHIJKLMNOPQRSTUVWXYZ", min_size=3, max_size=3),
        "provider": st.none() | labels(),
    }
    return st.one_of(
        _made(OpenAccount, tier=identifiers(), **common),
        _made(DeductUsage, tokens=tokens, feature=st.none() | labels(), **common),
        _made(FreeUpload, bytes=tokens, **common),
        _made(PaymentSucceeded, package_id=identifiers(), **payment, **common),
        _made(PaymentSucceeded, package_index=st.integers(0, 9_999), **payment, **common),
        _made(RefundCredit, tokens=tokens, **common),
        _made(BonusCredit, tokens=tokens, **common),
    )


# -- commands that meet -----------------------------------------------------------------------------------


def crowded_commands() -> st.SearchStrategy[Command]:
    """Commands of ``SMALL_CATALOG`` on two users and few references: they repeat, contradict and run dry.

    Most references keep to one type and most commands to the first user, or all would be conflicts.
    """
    tokens = st.sampled_from([20, 70, 130])
    price = {"amount_minor": st.sampled_from([499, 999]), "currency": st.sampled_from(["USD", "EUR"])}
    return st.one_of(
        _made(OpenAccount, **_crowded("o"), tier=st.sampled_from(["free", "pro", "empty", "gold"])),
        _made(DeductUsage, **_crowded("d"), tokens=tokens),
        _made(DeductUsage, **_crowded("d"), tokens=st.just(130), feature=st.sampled_from([None, "chat"])),
        _made(FreeUpload, **_crowded("f"), bytes=st.sampled_from([10, 40])),
        _made(PaymentSucceeded, **_crowded("p"), **price, package_index=st.sampled_from([0, 1, 2])),
        _made(PaymentSucceeded, **_crowded("p"), **price, package_id=st.sampled_from(["plain", "rich"])),
        _made(RefundCredit, **_crowded("c"), tokens=tokens),
        _made(BonusCredit, **_crowded("b"), tokens=tokens),
    )


def _crowded(kind: str) -> dict[str, st.SearchStrategy[Any]]:
    return {
        "reference_id": st.sampled_from([f"{kind}0", f"{kind}0", f"{kind}1", f"{kind}1", f"{kind}2", "any"]),
        "user_id": st.sampled_from(["u0", "u0", "u0", "u0", "u1"]),
        "attempt": st.sampled_from([1, 1, 1, 2, 3]),
    }


def crowded_days(max_size: int = 24) -> st.SearchStrategy[list[Command]]:
    """A stream of crowded commands; most days begin with an account, as most days do."""
    first = OpenAccount(reference_id="open", user_id="u0", tier="free")
    short = st.lists(crowded_commands(), max_size=max_size)
    long = st.lists(crowded_commands(), min_size=max_size // 2, max_size=max_size)
    return st.one_of(short, short.map(lambda day: [first, *day]), long.map(lambda day: [first, *day]))


def cut(commands: Sequence[Command], sizes: Iterable[int]) -> Iterator[list[Command]]:
    """``commands`` in batches of these sizes; what is left over is the last batch."""
    start = 0
    for size in sizes:
        if start >= len(commands):
            return
        yield list(commands[start : start + size])
        start += size
    if start < len(commands):
        yield list(commands[start:])


# -- the ledger in memory ---------------------------------------------------------------------------------


class FakeLedger:
    """The rows of the ledger in dicts and lists, with the constraints of the tables as assertions."""

    def __init__(self, catalog: Catalog = SMALL_CATALOG) -> None:
        self.catalog = catalog
        self.accounts: dict[str, AccountState] = {}
        self.outcomes: dict[str, Outcome] = {}
        self.superseded: dict[tuple[str, int], Outcome] = {}
        self.quotas: dict[QuotaKey, QuotaState] = {}
        self.entries: list[Entry] = []
        self.quota_entries: list[QuotaEntry] = []
        self.payments: list[Payment] = []
        self._ids = 0

    def apply(self, commands: Sequence[Command], now: datetime = NOW) -> list[dict[str, Any]]:
        """One batch, from load to reply: the replies as they stand on the wire."""
        known = self.load(commands, now)
        before = deepcopy(known)
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

    # -- load ---------------------------------------------------------------------------------------------

    def load(self, commands: Sequence[Command], now: datetime) -> Known:
        """As the store does: accounts that may be missing are made first and named in ``just_opened``."""
        just_opened = self._make_missing_accounts(commands)
        accounts = {c.user_id: copy(self.accounts[c.user_id]) for c in commands if c.user_id in self.accounts}
        stored = {c.reference_id: self.outcomes.get(c.reference_id) for c in commands}
        outcomes = {reference_id: copy(outcome) for reference_id, outcome in stored.items() if outcome}
        late = {
            (c.reference_id, c.attempt)
            for c in commands
            if c.reference_id in outcomes and c.attempt < outcomes[c.reference_id].attempt
        }
        keys = {
            QuotaKey(accounts[c.user_id].account_id, FREE_UPLOAD_METER, period_start(now))
            for c in commands
            if isinstance(c, FreeUpload) and c.user_id in accounts
        }
        return Known(
            accounts=accounts,
            just_opened=just_opened,
            outcomes=outcomes,
            superseded={key: copy(self.superseded[key]) for key in late if key in self.superseded},
            quotas={key: copy(self.quotas[key]) for key in keys if key in self.quotas},
        )

    def _make_missing_accounts(self, commands: Sequence[Command]) -> set[str]:
        made = set()
        for command in commands:
            if isinstance(command, OpenAccount) and command.user_id not in self.accounts:
                state = AccountState(self._next_id(), command.user_id, command.tier)
                self.accounts[command.user_id] = state
                made.add(command.user_id)
        return made

    def _next_id(self) -> int:
        self._ids += 1
        return self._ids

    # -- write --------------------------------------------------------------------------------------------

    def write(self, plan: Plan, known: Known) -> None:
        """As the store does, in its order."""
        self._claim(plan)
        self._supersede(plan)
        self._append(plan)
        self._count_quotas(plan)
        self.payments += plan.payments
        self._move_accounts(plan)
        for user_id in known.just_opened - plan.opened:
            del self.accounts[user_id]
        self._hold()

    def _claim(self, plan: Plan) -> None:
        for outcome in sorted(plan.outcomes, key=lambda outcome: outcome.reference_id):
            assert outcome.reference_id not in self.outcomes, "a reference is claimed twice"
            outcome.transaction_id = self._next_id()
            self.outcomes[outcome.reference_id] = replace(outcome)

    def _supersede(self, plan: Plan) -> None:
        for stored, outcome in plan.rejudged:
            outcome.transaction_id = stored.transaction_id
            key = (stored.reference_id, stored.attempt)
            assert not stored.is_applied, "an applied outcome is superseded"
            assert key not in self.superseded, "an attempt is superseded twice"
            assert self.outcomes[stored.reference_id] == stored, "what is superseded is not the latest"
            self.superseded[key] = replace(stored)
            self.outcomes[stored.reference_id] = replace(outcome)

    def _append(self, plan: Plan) -> None:
        taken = {(entry.account_id, entry.sequence) for entry in self.entries}
        for entry in plan.entries:
            assert entry.amount != 0
            assert entry.balance_after == entry.balance_before + entry.amount >= 0
            assert (entry.account_id, entry.sequence) not in taken, "a sequence is given twice"
            taken.add((entry.account_id, entry.sequence))
            self.entries.append(entry)

    def _count_quotas(self, plan: Plan) -> None:
        for entry in plan.quota_entries:
            quota = self.quotas.setdefault(entry.key, QuotaState())
            assert (quota.used, quota.sequence) == (entry.used_before, entry.sequence - 1)
            assert entry.used_after == entry.used_before + entry.amount
            self.quotas[entry.key] = QuotaState(entry.used_after, entry.sequence)
            self.quota_entries.append(entry)

    def _move_accounts(self, plan: Plan) -> None:
        for user_id, (account, before) in plan.accounts.items():
            if account.sequence != before or user_id in plan.opened:
                assert self.accounts[user_id].account_id == account.account_id
                assert self.accounts[user_id].sequence == before, "an account moved under its lock"
                self.accounts[user_id] = copy(account)

    def _hold(self) -> None:
        """What must be true after every batch: the sums, and the chain of entries behind each balance."""
        for account in self.accounts.values():
            credit = account.allocated + account.purchased + account.bonus + account.refunded
            assert account.balance == credit - account.used >= 0
            balance, sequence = 0, 0
            for entry in self.history(account.user_id):
                assert (entry.balance_before, entry.sequence) == (balance, sequence + 1)
                balance, sequence = entry.balance_after, entry.sequence
            assert (account.balance, account.sequence) == (balance, sequence)
        owners = {account.account_id for account in self.accounts.values()}
        assert {entry.account_id for entry in self.entries} <= owners, "an entry without an account"
