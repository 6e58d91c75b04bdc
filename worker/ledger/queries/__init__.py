"""The read side: queries of the ledger. Nothing here changes it.

Every answer is a frozen ``View`` read from one consistent snapshot. ``now`` and the time zone come in as
arguments. Tokens and bytes are whole numbers, money is in minor units, times are aware and in UTC. An unknown
user is a NotFoundError, never a zero; a query that makes no sense is a QueryError. What is due is counted at
once, posted or not, by the code that will post it.
"""

from worker.ledger.queries.balances import Affordability, Balance, DueTotals, Quota, Subscription
from worker.ledger.queries.days import day_start, zone_of
from worker.ledger.queries.expiring import Expiring, ExpiringPage
from worker.ledger.queries.explain import Explanation
from worker.ledger.queries.history import History, PostedEntry
from worker.ledger.queries.holdings import Holds, HoldView, Lots, LotView
from worker.ledger.queries.reader import Reader
from worker.ledger.queries.snapshots import snapshot
from worker.ledger.queries.statements import Statement, StatementSummary
from worker.ledger.queries.totals import OperationCount, Revenue, Stats
from worker.ledger.queries.usage import Projection, UsageDay, UsageReport
from worker.ledger.queries.views import View

__all__ = [
    "Affordability",
    "Balance",
    "DueTotals",
    "Expiring",
    "ExpiringPage",
    "Explanation",
    "History",
    "HoldView",
    "Holds",
    "LotView",
    "Lots",
    "OperationCount",
    "PostedEntry",
    "Projection",
    "Quota",
    "Reader",
    "Revenue",
    "Statement",
    "StatementSummary",
    "Stats",
    "Subscription",
    "UsageDay",
    "UsageReport",
    "View",
    "day_start",
    "snapshot",
    "zone_of",
]
