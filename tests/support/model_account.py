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


def meets(anchor: datetime, end: datetime) -> bool:
    """True where some months after ``anchor`` end at ``end``."""
    months = 1
    while boundary(anchor, months) < end:
        months += 1
    return boundary(anchor, months) == end


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
        #: When the last granted period began, and the periods that a gateway named, in order.
        self.granted_start: datetime | None = now
        self.named: list[tuple[datetime, datetime]] = []
        #: The tier to come and its time.
        self.next_tier: tuple[str, datetime] | None = None
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
        account.named = list(self.named)
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
        day = start.date()  # periods are named by their first day
        return sum(amount for name, when, amount in self.counted if (name, when.date()) == (quota, day))

    def period(self) -> tuple[datetime, datetime]:
        """The period of now, in which quotas count: at most a month."""
        start, end = self.period_of(self.now)
        if end <= start + timedelta(days=31):
            return start, end
        month = period(start, max(self.now, start))
        return month[0], min(month[1], end)

    def period_of(
        self, moment: datetime, named: list[tuple[datetime, datetime]] | None = None
    ) -> tuple[datetime, datetime]:
        """The period of ``moment`` by which tokens are granted: a gateway's own, or a month."""
        named, moment = self.named if named is None else named, max(moment, self.anchor)
        if not named:
            return period(self.anchor, moment)
        start, end = named[-1]
        if moment >= end:
            return period(self._anchor_after(named), moment)
        if moment >= start:
            return start, end
        before = self.period_of(moment, named[:-1])
        return before[0], min(before[1], start)

    def _anchor_after(self, named: list[tuple[datetime, datetime]]) -> datetime:
        """The day from which months count after the gateway's periods: it follows them."""
        anchor = self.anchor
        for start, end in named:
            if period(anchor, max(start, anchor)) != (start, end):
                anchor = start if meets(start, end) else end
        return anchor

    def plan(self) -> Tier | None:
        """Tier of the account, or None where the catalog has it no longer."""
        return self.catalog.tiers.get(self.tier)

    def has_ended(self) -> bool:
        """True once the subscription is over."""
        return self.ends_at is not None and self.ends_at <= self.now

    def has_free_units(self) -> bool:
        """True in a period that was granted, and always where the tier costs nothing."""
        tier = self.plan()
        is_granted = self.now < self.granted_until or (tier is not None and tier.auto_renew)
        return is_granted and not self.has_ended()

    def is_gateways(self) -> bool:
        """True where a gateway named the last period that was granted."""
        return bool(self.named) and self.named[-1][0] == self.granted_start

    def name_period(self, named: tuple[datetime, datetime]) -> None:
        """Notes a period with both its ends; one that was to begin, and hasn't, never will."""
        if self.named and self.named[-1][0] > self.now:
            self.named.pop()
        self.named.append(named)

    def earliest(self) -> datetime:
        """The beginning of all that a renewal may be about."""
        return self.period_of(self.now)[0] if self.is_gateways() else self._anchor_after(self.named)

    def hold_named(self, reference_id: str) -> Hold | None:
        """The hold of that name, whatever became of it; that of a dispute has no name."""
        named = [h for h in self.holds if h["reference"] == reference_id and not h["isDispute"]]
        return named[0] if named else None

    def to_burn(self, at: datetime | None = None) -> list[Credit]:
        """Credits with something free that have not expired ``at`` that time, in the order to be spent."""
        moment = self.now if at is None else at
        usable = [c for c in self.credits if self.free(c) > 0 and not _is_over(c, moment)]
        never = datetime.max.replace(tzinfo=UTC)
        return sorted(usable, key=lambda c: (c["priority"], _end(c) or never, c["effectiveAt"], c["number"]))

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
                "endedAt": credit["endedAt"],
            }
            for credit in self.credits
        ]

    def next_due(self) -> datetime | None:
        """Time when something is due next: an end, a beginning, or a notice of an end."""
        times = [hold["expiresAt"] for hold in self.holds if hold["state"] == "open"]
        times += [end for c in self.credits if (end := _end(c)) is not None and self.free(c) > 0]
        times += [] if self.next_tier is None else [self.next_tier[1]]
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
            "endedAt": None,
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
                    self._change_tier(at)
                case "d":
                    self._renew(at)
                case _:
                    self.take_effect(self.credits[number], at)

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
            end = _end(credit)
            if end is not None and end <= self.now and self.free(credit) > 0:
                due.append((end, "b", index))
            if credit["isWaiting"] and credit["effectiveAt"] <= self.now:
                due.append((credit["effectiveAt"], "e", index))
        if self.next_tier is not None and self.next_tier[1] <= self.now:
            due.append((self.next_tier[1], "c", 0))
        if self._renews_itself() and self.granted_until <= self.now:
            due.append((self.granted_until, "d", 0))
        return due

    def _hold_runs_out(self, hold: Hold, at: datetime) -> None:
        self.close(hold, "expired", at)
        for lot, _ in hold["parts"]:
            credit = self.credits[lot - 1]
            if (end := _end(credit)) is not None and end < at:
                self._expire(credit)
        self._repay(at)

    def _credit_runs_out(self, credit: Credit, at: datetime) -> None:
        tier = self.plan()
        is_over = self.ends_at is not None and self.ends_at <= at
        is_kept = credit["source"] == "allocation" and credit["parent"] is None and not is_over
        start, end = self._follows(at)
        if is_kept and credit["endedAt"] is None and tier is not None and at - start < timedelta(days=1):
            siblings = [
                c["granted"]
                for c in self.credits
                if c["source"] == "allocation" and c["parent"] is not None and c["effectiveAt"] == at
            ]
            kept = min(self.free(credit), tier.rollover_tokens - sum(siblings))
            if kept > 0:
                follower = self.note(
                    "allocation", kept, effective_at=at, expires_at=end, parent=credit["number"]
                )
                self.write(-kept, "transfers", credit["number"], at)
                self.write(kept, "transfers", follower["number"], at)
                self._repay(at)
        self._expire(credit)

    def _expire(self, credit: Credit) -> None:
        end = _end(credit)
        assert end is not None
        self.write(-self.free(credit), "expiry", credit["number"], min(end, self.now))

    def _follows(self, at: datetime) -> tuple[datetime, datetime]:
        """The period that follows one that ended at ``at``: two calendars may differ by less than a day."""
        if self.named and abs(self.named[-1][0] - at) < timedelta(days=1):
            return self.named[-1]
        return self.period_of(at)

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

    def _change_tier(self, at: datetime) -> None:
        assert self.next_tier is not None
        self.tier, self.next_tier = self.next_tier[0], None
        if self.granted_until < at:
            self.granted_start = self.period_of(at - timedelta(microseconds=1))[0]
            self.granted_until, self.period_granted = at, 0

    def _renew(self, at: datetime) -> None:
        """The next period; or in one credit all that have passed but the last, where nothing is left of them.

        While there is a debt that is so for those that it takes whole, until something else is due.
        """
        ends = self._ends_of_passed(at)
        monthly = self.catalog.tiers[self.tier].monthly_tokens
        if self.debt():
            others = [when for when, kind, _ in self._due() if kind != "d"]
            limit = min([self.now, *others])
            starts = [at, *ends][: len(ends)]
            ends = [end for start, end in zip(starts, ends, strict=True) if start < limit]
            ends = ends[: self.debt() // monthly] if monthly else ends
        if len(ends) < 2:
            self._grant(at, self.period_of(at)[1])
            return
        self._grant(at, ends[-1], len(ends))
        if monthly:
            self._expire(self.credits[-1])

    def _ends_of_passed(self, at: datetime) -> list[datetime]:
        """The ends of the periods from ``at`` on, but not of the present one nor of the last before it."""
        start, _ = self.period_of(self.now)
        ends = []
        while at < start:
            at = self.period_of(at)[1]
            ends.append(at)
        return ends[:-1]

    def _grant(self, at: datetime, end: datetime, count: int = 1) -> None:
        tier = self.catalog.tiers[self.tier]
        if tier.monthly_tokens > 0:
            tokens = tier.monthly_tokens * count
            credit = self.note("allocation", tokens, effective_at=at, expires_at=end)
            self.fill(credit, tokens, "allocation", at)
        self.granted_start, self.granted_until, self.period_granted = at, end, tier.monthly_tokens

    def take_effect(self, credit: Credit, at: datetime) -> None:
        """Fills a credit that waited."""
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


def _end(credit: Credit) -> datetime | None:
    """The time from which nothing is left of a credit."""
    return min((t for t in (credit["expiresAt"], credit["endedAt"]) if t is not None), default=None)


def _is_over(credit: Credit, at: datetime) -> bool:
    """True from a credit's end on; always of one that a cancellation ended, also by a clock behind it."""
    if credit["endedAt"] is not None:
        return True
    return credit["expiresAt"] is not None and bool(credit["expiresAt"] <= at)
