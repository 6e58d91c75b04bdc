"""Account kept by hand: a list of movements, a list of credits, a list of holds.

No figure is kept beside the lists: a balance, what is left of a credit, what a hold keeps, a debt are summed
each time they are asked for. Everything is in plain dicts, under the names of the wire.
"""

from copy import copy
from datetime import UTC, datetime, timedelta
from typing import Any

from worker.catalog import Catalog, Tier

Message = dict[str, Any]
Movement = dict[str, Any]
Credit = dict[str, Any]
Hold = dict[str, Any]
Notice = dict[str, Any]


def boundary(anchor: datetime, months: int) -> datetime:
    """Time so many months after ``anchor``; on the last day of a month that is too short."""
    year, month = anchor.year, anchor.month
    for _ in range(months):
        year, month = (year + 1, 1) if month == 12 else (year, month + 1)
    day = anchor.day
    while day > 28 and not _is_a_day(year, month, day):
        day -= 1
    return anchor.replace(year=year, month=month, day=day)


def _is_a_day(year: int, month: int, day: int) -> bool:
    return (datetime(year, month, 28, tzinfo=UTC) + timedelta(days=day - 28)).month == month


def period(anchor: datetime, moment: datetime) -> tuple[datetime, datetime]:
    """The month, counted from ``anchor``, that ``moment`` lies in; found by walking there."""
    months = 0
    while boundary(anchor, months + 1) <= moment:
        months += 1
    return boundary(anchor, months), boundary(anchor, months + 1)


class AccountModel:
    """The account of one user. ``taken_up`` gives a copy to write in, so that a refusal leaves nothing."""

    def __init__(self, catalog: Catalog, tier: str, message: Message, now: datetime) -> None:
        self.catalog, self.message, self.now = catalog, message, now
        self.tier = tier
        self.anchor = now
        self.granted_until = boundary(now, 1)
        self.period_granted = 0
        self.ends_at: datetime | None = None
        self.warned: set[str] = set()
        self.movements: list[Movement] = []
        self.credits: list[Credit] = []
        self.holds: list[Hold] = []
        #: What was counted against quotas: name, period, amount.
        self.counted: list[tuple[str, datetime, int]] = []

    def taken_up(self, catalog: Catalog, message: Message, now: datetime) -> "AccountModel":
        """A copy in which ``message`` can be judged at ``now``: all that has fallen due is posted in it."""
        account = copy(self)
        account.catalog, account.message, account.now = catalog, message, now
        account.movements = list(self.movements)
        account.credits = [dict(credit) for credit in self.credits]
        account.holds = [dict(hold) for hold in self.holds]
        account.counted = list(self.counted)
        account.warned = set(self.warned)
        account._post_due()
        return account

    # -- what one may ask ---------------------------------------------------------------------------------

    def balance(self) -> int:
        """All that was ever moved."""
        return _sum(self.movements)

    def moved(self, counter: str) -> int:
        """All that came from ``counter``, less what went to it."""
        return _sum([m for m in self.movements if m["counter"] == counter])

    def remaining(self, credit: Credit) -> int:
        """Tokens that were moved into a credit and not out of it."""
        return _sum([m for m in self.movements if m["lot"] == credit["number"]])

    def held_of(self, credit: Credit) -> int:
        """Tokens of a credit that open holds keep."""
        parts = [part for hold in self.holds if hold["state"] == "open" for part in hold["parts"]]
        return sum(amount for lot, amount in parts if lot == credit["number"])

    def free(self, credit: Credit) -> int:
        """Tokens of a credit that are left and not held."""
        return self.remaining(credit) - self.held_of(credit)

    def held(self) -> int:
        """Tokens that open holds keep in all."""
        return _sum([hold for hold in self.holds if hold["state"] == "open"])

    def debt(self) -> int:
        """Tokens that were taken from no credit and not repaid."""
        return -_sum([movement for movement in self.movements if movement["lot"] is None])

    def available(self) -> int:
        """Tokens that may be spent; below zero where there is a debt."""
        return self.balance() - self.held()

    def used(self, quota: str) -> int:
        """Amount counted against ``quota`` in the period of now."""
        start, _ = self.period()
        return sum(amount for name, when, amount in self.counted if (name, when) == (quota, start))

    def period(self) -> tuple[datetime, datetime]:
        """The period of now."""
        return period(self.anchor, max(self.now, self.anchor))

    def plan(self) -> Tier | None:
        """Tier of the account, or None where the catalog has it no longer."""
        return self.catalog.tiers.get(self.tier)

    def has_ended(self) -> bool:
        """True once the subscription is over."""
        return self.ends_at is not None and self.ends_at <= self.now

    def hold_named(self, reference_id: str) -> Hold | None:
        """The hold of that name, whatever became of it; that of a dispute has no name."""
        named = [h for h in self.holds if h["reference"] == reference_id and not h["isDispute"]]
        return named[0] if named else None

    def to_burn(self, at: datetime | None = None) -> list[Credit]:
        """Credits with something free that have not expired ``at`` that time, in the order to be spent."""
        moment = self.now if at is None else at
        usable = [c for c in self.credits if self.free(c) > 0 and not _is_over(c, moment)]
        never = datetime.max.replace(tzinfo=UTC)
        return sorted(usable, key=lambda c: (c["priority"], c["expiresAt"] or never, c["number"]))

    def lots(self) -> list[dict[str, Any]]:
        """Every credit there ever was, with what is left of it."""
        return [
            {
                "number": credit["number"],
                "source": credit["source"],
                "granted": credit["granted"],
                "remaining": self.remaining(credit),
                "held": self.held_of(credit),
                "pending": credit["granted"] if credit["isWaiting"] else 0,
                "priority": credit["priority"],
                "effectiveAt": credit["effectiveAt"],
                "expiresAt": credit["expiresAt"],
                "parent": credit["parent"],
                "isNoticed": credit["isNoticed"],
            }
            for credit in self.credits
        ]

    def next_due(self) -> datetime | None:
        """Time when something is due next: an end, a beginning, or a notice of an end."""
        times = [hold["expiresAt"] for hold in self.holds if hold["state"] == "open"]
        times += [c["expiresAt"] for c in self.credits if c["expiresAt"] is not None and self.free(c) > 0]
        times += [c["effectiveAt"] for c in self.credits if c["isWaiting"]]
        warning = timedelta(days=self.catalog.notices.expiring_days)
        times += [c["expiresAt"] - warning for c in self.credits if warning and self._may_be_noticed(c)]
        if self._renews_itself() or self._has_just_begun():
            times.append(self.granted_until)
        return min(times, default=None)

    # -- writing ------------------------------------------------------------------------------------------

    def write(
        self,
        amount: int,
        counter: str,
        lot: int | None,
        due: datetime | None = None,
        *,
        feature: str | None = None,
    ) -> None:
        """One movement; ``lot`` None makes or repays a debt."""
        if amount == 0:
            return
        before = self.balance()
        said = self.message.get("occurredAt")
        self.movements.append(
            {
                "sequence": len(self.movements) + 1,
                "referenceId": self.message.get("referenceId"),
                "counter": counter,
                "amount": amount,
                "balanceBefore": before,
                "balanceAfter": before + amount,
                "lot": lot,
                "feature": feature,
                "dueAt": due,
                "occurredAt": due or (self.now if said is None else datetime.fromisoformat(said)),
                "recordedAt": self.now,
            }
        )

    def note(
        self,
        source: str,
        tokens: int,
        *,
        expires_at: datetime | None = None,
        effective_at: datetime | None = None,
        parent: int | None = None,
        priority: int | None = None,
        is_waiting: bool = False,
    ) -> Credit:
        """A new line in the list of credits; nothing is moved yet."""
        usual: int = getattr(self.catalog.priorities, source)
        credit: Credit = {
            "number": len(self.credits) + 1,
            "source": source,
            "granted": tokens,
            "priority": usual if priority is None else priority,
            "effectiveAt": effective_at or self.now,
            "expiresAt": expires_at,
            "parent": parent,
            "isWaiting": is_waiting,
            "isNoticed": False,
        }
        self.credits.append(credit)
        return credit

    def fill(self, credit: Credit, tokens: int, counter: str, due: datetime | None = None) -> None:
        """Moves tokens in: to the debt first, the rest to the credit."""
        repaid = min(self.debt(), tokens)
        self.write(repaid, counter, None, due)
        self.write(tokens - repaid, counter, credit["number"], due)

    def take(self, tokens: int, counter: str, *, feature: str | None = None) -> int:
        """Moves tokens out of the credits in their order; returns how many are missing."""
        for credit in self.to_burn():
            part = min(tokens, self.free(credit))
            self.write(-part, counter, credit["number"], feature=feature)
            tokens -= part
        return tokens

    def parts_for(self, tokens: int) -> list[tuple[int, int]]:
        """Credits from which a hold would keep so many tokens."""
        parts = []
        for credit in self.to_burn():
            part = min(tokens, self.free(credit))
            if part > 0:
                parts.append((credit["number"], part))
            tokens -= part
        return parts

    def close(self, hold: Hold, state: str, at: datetime) -> None:
        """Ends a hold; what it kept is free."""
        hold["state"], hold["closedAt"] = state, at

    # -- what time brings ---------------------------------------------------------------------------------

    def _post_due(self) -> None:
        while due := self._due():
            at, kind, number = min(due)
            match kind:
                case "":
                    self._begin(at)
                case "a":
                    self._hold_runs_out(self._in_order_of_opening()[number], at)
                case "b":
                    self._credit_runs_out(self.credits[number], at)
                case "c":
                    self._renew(at)
                case _:
                    self._take_effect(self.credits[number], at)

    def _in_order_of_opening(self) -> list[Hold]:
        """Holds in the order of opening, and of references where they were opened in one moment."""
        return sorted(self.holds, key=lambda hold: (hold["openedAt"], hold["reference"]))

    def _due(self) -> list[tuple[datetime, str, int]]:
        due = [(self.anchor, "", 0)] if self._has_just_begun() else []
        due += [
            (hold["expiresAt"], "a", index)
            for index, hold in enumerate(self._in_order_of_opening())
            if hold["state"] == "open" and hold["expiresAt"] <= self.now
        ]
        for index, credit in enumerate(self.credits):
            if _is_over(credit, self.now) and self.free(credit) > 0:
                due.append((credit["expiresAt"], "b", index))
            if credit["isWaiting"] and credit["effectiveAt"] <= self.now:
                due.append((credit["effectiveAt"], "d", index))
        if self._renews_itself() and self.granted_until <= self.now:
            due.append((self.period()[0], "c", 0))
        return due

    def _hold_runs_out(self, hold: Hold, at: datetime) -> None:
        self.close(hold, "expired", at)
        for lot, _ in hold["parts"]:
            credit = self.credits[lot - 1]
            if credit["expiresAt"] is not None and credit["expiresAt"] < at:
                self._expire(credit)
        self._repay(at)

    def _credit_runs_out(self, credit: Credit, at: datetime) -> None:
        tier = self.plan()
        is_over = self.ends_at is not None and self.ends_at <= at
        is_kept = credit["source"] == "allocation" and credit["parent"] is None and not is_over
        if is_kept and tier is not None and period(self.anchor, at)[0] == at:
            siblings = [
                c["granted"]
                for c in self.credits
                if c["source"] == "allocation" and c["parent"] is not None and c["effectiveAt"] == at
            ]
            kept = min(self.free(credit), tier.rollover_tokens - sum(siblings))
            if kept > 0:
                _, end = period(self.anchor, at)
                follower = self.note(
                    "allocation", kept, effective_at=at, expires_at=end, parent=credit["number"]
                )
                self.write(-kept, "transfers", credit["number"], at)
                self.write(kept, "transfers", follower["number"], at)
                self._repay(at)
        self._expire(credit)

    def _expire(self, credit: Credit) -> None:
        self.write(-self.free(credit), "expiry", credit["number"], credit["expiresAt"])

    def _renews_itself(self) -> bool:
        tier = self.plan()
        return tier is not None and tier.auto_renew and self.ends_at is None

    def _has_just_begun(self) -> bool:
        """True until the first allocation of an account is posted that the user's first message opened."""
        return self.granted_until == self.anchor and self.plan() is not None

    def _begin(self, at: datetime) -> None:
        self._grant(at, boundary(at, 1))
        for mark in ("low", "depleted"):
            self.look_at_mark(mark)

    def _renew(self, at: datetime) -> None:
        self._grant(at, self.period()[1])

    def _grant(self, at: datetime, end: datetime) -> None:
        tier = self.catalog.tiers[self.tier]
        if tier.monthly_tokens > 0:
            credit = self.note("allocation", tier.monthly_tokens, effective_at=at, expires_at=end)
            self.fill(credit, tier.monthly_tokens, "allocation", at)
        self.granted_until, self.period_granted = end, tier.monthly_tokens

    def _take_effect(self, credit: Credit, at: datetime) -> None:
        credit["isWaiting"] = False
        self.fill(credit, credit["granted"], credit["source"], at)

    def _repay(self, at: datetime) -> None:
        for credit in self.to_burn(at):
            part = min(self.debt(), self.free(credit))
            self.write(-part, "transfers", credit["number"], at)
            self.write(part, "transfers", None, at)

    # -- after a message that was applied -----------------------------------------------------------------

    def finish(self) -> list[Notice]:
        """Do what follows an applied message: expire, repay; return the notices that it brings about."""
        for credit in self.credits:
            if _is_over(credit, self.now):
                self._expire(credit)
        self._repay(self.now)
        notices = self._ends_in_sight()
        for name in ("low", "depleted"):
            notices += self.look_at_mark(name)
        return notices

    def _may_be_noticed(self, credit: Credit) -> bool:
        return (
            credit["source"] != "allocation"
            and credit["expiresAt"] is not None
            and not credit["isNoticed"]
            and self.now < credit["expiresAt"]
            and self.remaining(credit) > 0
        )

    def _ends_in_sight(self) -> list[Notice]:
        warning = timedelta(days=self.catalog.notices.expiring_days)
        notices = []
        for credit in self.credits:
            if warning and self._may_be_noticed(credit) and credit["expiresAt"] - warning <= self.now:
                credit["isNoticed"] = True
                notices.append(
                    {
                        "type": "credit.expiring",
                        "lot": credit["number"],
                        "tokens": self.remaining(credit),
                        "source": credit["source"],
                        "expiresAt": credit["expiresAt"],
                    }
                )
        return notices

    def look_at_mark(self, name: str) -> list[Notice]:
        """The notice due at the mark ``low`` or ``depleted``, once until the balance has recovered."""
        mark = getattr(self.catalog.notices, name)
        if mark is None:
            return []
        left = self.available()
        if name in self.warned:
            if left >= mark.again_from:
                self.warned.remove(name)
            return []
        if left > mark.at:
            return []
        self.warned.add(name)
        return [{"type": f"balance.{name}", "available": left, "mark": mark.at}]


def _sum(lines: list[dict[str, Any]]) -> int:
    total = 0
    for line in lines:
        total += line["amount"]
    return total


def _is_over(credit: Credit, at: datetime) -> bool:
    return credit["expiresAt"] is not None and credit["expiresAt"] <= at
