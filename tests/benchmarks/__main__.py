"""``make bench``: measures, checks the ledger, prints the figures with their conditions.

``make bench WHAT=first-speed`` runs one. Options stand in BENCH_… variables: BENCH_MESSAGES, BENCH_USERS,
BENCH_RUNS.
"""

import json
import os
import platform
import statistics
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pika
from rich.progress import Progress, TaskID
from sqlalchemy import text

from tests.benchmarks.first_speed import Run, measure
from tests.support.provision import PostgresServer, RabbitMQServer, postgres_server, rabbitmq_server
from worker.ledger.engine import ledger_engine

RESULTS = Path("build/benchmarks")
WHATS = ("first-speed",)


def main() -> int:
    """Run what is asked for; 0 if the ledger was true after every run."""
    wanted = sys.argv[1:] or list(WHATS)
    if unknown := [what for what in wanted if what not in WHATS]:
        sys.stderr.write(f"no benchmark {', '.join(unknown)}; there are {', '.join(WHATS)}\n")
        return 2
    messages, users, runs = (_number(name) for name in _DEFAULTS)
    with postgres_server() as postgres, rabbitmq_server() as rabbitmq:
        conditions = _conditions(postgres, rabbitmq)
        measured = _measured(postgres, rabbitmq, messages, users, runs)
    _show(conditions, measured)
    _keep(conditions, measured)
    return 0


_DEFAULTS = {"BENCH_MESSAGES": 50_000, "BENCH_USERS": 10_000, "BENCH_RUNS": 3}


def _number(name: str) -> int:
    return int(os.environ.get(name, _DEFAULTS[name]))


def _measured(
    postgres: PostgresServer, rabbitmq: RabbitMQServer, messages: int, users: int, runs: int
) -> list[Run]:
    with Progress(disable=not sys.stderr.isatty()) as bar:
        task: TaskID = bar.add_task("first-speed", total=messages)

        def advance(step: str, done: int, total: int) -> None:
            bar.update(task, description=step, completed=done, total=total)

        return [
            measure(postgres, rabbitmq, messages=messages, users=users, workers=1, progress=advance)
            for _ in range(runs)
        ]


def _conditions(postgres: PostgresServer, rabbitmq: RabbitMQServer) -> dict[str, Any]:
    engine = ledger_engine(postgres.address.url("postgres"))
    with engine.connect() as connection:
        shown = {
            name: connection.execute(text(f"SHOW {name}")).scalar_one()
            for name in ("server_version", "fsync", "synchronous_commit", "shared_buffers")
        }
    engine.dispose()
    with pika.BlockingConnection(pika.URLParameters(rabbitmq.address.url("/"))) as connection:
        broker = connection._impl.server_properties["version"]
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, {platform.system()}",
        "python": platform.python_version(),
        "rabbitmq": broker,
        "postgresql": shown,
        "packages": {name: version(name) for name in ("kombu", "amqp", "sqlalchemy", "psycopg2-binary")},
        "load before": os.getloadavg(),
        "bias": "broker, database, worker and clock share the machine; nobody reads the replies",
    }


def _show(conditions: dict[str, Any], runs: list[Run]) -> None:
    out = sys.stdout.write
    for name, value in conditions.items():
        out(f"{name}: {value}\n")
    first = runs[0]
    out(
        f"\nfirst-speed: {first.messages:,} usage.deduct prefilled in a quorum queue, {first.users:,} users, "
        f"{first.workers} worker, replies confirmed, audit clean after each run\n"
    )
    for run in runs:
        out(f"  {run.per_second:8,.0f} messages/s   worker CPU {run.worker_cpu_us:4.0f} µs a message\n")
    out(f"  {statistics.median(run.per_second for run in runs):8,.0f} messages/s is the median\n")


def _keep(conditions: dict[str, Any], runs: list[Run]) -> None:
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / "first-speed.json"
    path.write_text(json.dumps({"conditions": conditions, "runs": [run.to_dict() for run in runs]}, indent=2))
    sys.stdout.write(f"written to {path}\n")


if __name__ == "__main__":
    sys.exit(main())
