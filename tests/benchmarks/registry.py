"""All benchmarks, in the order they run in."""

from tests.benchmarks.backlog import BACKLOG
from tests.benchmarks.batch import BATCH
from tests.benchmarks.broker_nodes import BROKERS
from tests.benchmarks.budget import BUDGET
from tests.benchmarks.echo import ECHO
from tests.benchmarks.first_speed import FIRST_SPEED
from tests.benchmarks.http import HTTP
from tests.benchmarks.lanes import LANES
from tests.benchmarks.large import LARGE
from tests.benchmarks.latency import LATENCY
from tests.benchmarks.ledger_alone import LEDGER
from tests.benchmarks.metered import METERED
from tests.benchmarks.mixed import MIXED
from tests.benchmarks.partitions import PARTITIONS
from tests.benchmarks.peers import PEERS
from tests.benchmarks.queries import QUERIES
from tests.benchmarks.results import Benchmark
from tests.benchmarks.skew import SKEW
from tests.benchmarks.slots import SLOTS
from tests.benchmarks.typescript import TYPESCRIPT
from tests.benchmarks.workers import WORKERS

BENCHMARKS: tuple[Benchmark, ...] = (
    FIRST_SPEED,
    PEERS,
    ECHO,
    LEDGER,
    SLOTS,
    METERED,
    BATCH,
    MIXED,
    SKEW,
    WORKERS,
    BROKERS,
    PARTITIONS,
    LATENCY,
    QUERIES,
    HTTP,
    LANES,
    TYPESCRIPT,
    BACKLOG,
    LARGE,
    BUDGET,
)
