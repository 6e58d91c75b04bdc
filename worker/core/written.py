"""Rows that a batch writes about one account, on their way into the plan."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from worker.core.known import Hold, Lot, Payment, PaymentEvent
from worker.core.plan import Entry, Plan, QuotaEntry, UsageRefund


@dataclass(slots=True)
class AccountRows:
    """Rows that a batch writes about one account, in order."""

    entries: list[Entry] = field(default_factory=list)
    new_lots: list[Lot] = field(default_factory=list)
    changed_lots: dict[int, Lot] = field(default_factory=dict)
    new_holds: list[Hold] = field(default_factory=list)
    changed_holds: dict[str, Hold] = field(default_factory=dict)
    late_holds: list[Hold] = field(default_factory=list)
    quota_entries: list[QuotaEntry] = field(default_factory=list)
    payments: list[Payment] = field(default_factory=list)
    payment_events: list[PaymentEvent] = field(default_factory=list)
    usage_refunds: list[UsageRefund] = field(default_factory=list)
    taken_in: list[str] = field(default_factory=list)
    stuck: list[str] = field(default_factory=list)

    def branch(self, lots: Mapping[int, Lot], holds: Mapping[str, Hold]) -> "AccountRows":
        """Return the same rows, with the copies of lots and holds that are given."""
        return AccountRows(
            entries=list(self.entries),
            new_lots=[lots[lot.number] for lot in self.new_lots],
            changed_lots={number: lots[number] for number in self.changed_lots},
            new_holds=[holds[hold.reference_id] for hold in self.new_holds],
            changed_holds={reference: holds[reference] for reference in self.changed_holds},
            late_holds=[holds[hold.reference_id] for hold in self.late_holds],
            quota_entries=list(self.quota_entries),
            payments=list(self.payments),
            payment_events=list(self.payment_events),
            usage_refunds=list(self.usage_refunds),
            taken_in=list(self.taken_in),
            stuck=list(self.stuck),
        )

    def add_usage_to(self, plan: Plan) -> None:
        """Add the rows of an account that only usage moved: there are no others."""
        plan.entries += self.entries
        plan.used_lots += self.changed_lots.values()

    def add_to(self, plan: Plan) -> None:
        """Add all rows to ``plan``."""
        plan.entries += self.entries
        plan.changed_lots += self.changed_lots.values()
        plan.new_lots += self.new_lots
        plan.new_holds += self.new_holds
        plan.changed_holds += self.changed_holds.values()
        plan.late_holds += self.late_holds
        plan.quota_entries += self.quota_entries
        plan.payments += self.payments
        plan.payment_events += self.payment_events
        plan.usage_refunds += self.usage_refunds
        plan.taken_in += self.taken_in
        plan.stuck += self.stuck
