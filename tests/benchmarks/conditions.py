"""Conditions of a measurement: machine, versions, settings and load."""

import os
import platform
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pika
from sqlalchemy import text

from tests.benchmarks.sandbox import ROOT, Servers
from tests.support.rabbitmq_server import _ERLANG_ARGUMENTS
from worker.ledger.engine import ledger_engine

_SHOWN = (
    "server_version",
    "fsync",
    "synchronous_commit",
    "full_page_writes",
    "wal_level",
    "shared_buffers",
    "max_wal_size",
    "wal_compression",
    "checkpoint_timeout",
    "autovacuum",
)
_PACKAGES = ("kombu", "amqp", "pika", "sqlalchemy", "psycopg2-binary", "pydantic", "pydantic-core")

BIAS = (
    "Broker, database, worker and clock share the machine, and every processor second of one is missing to "
    "the others. Nobody reads the replies meanwhile. Queues are filled before the clock starts, so nobody "
    "publishes meanwhile either. Each run begins after a checkpoint, with a ledger that has statistics. One "
    "broker node: a quorum of one. The clock looks some 20 times a second at how many replies there are. One "
    "run that does not count comes first."
)


def conditions(servers: Servers) -> dict[str, Any]:
    """Return machine, versions, settings and load before the first run."""
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "revision": _revision(),
        "machine": dict(_machine()),
        "load before": [round(load, 2) for load in os.getloadavg()],
        "python": platform.python_version(),
        "packages": {name: version(name) for name in _PACKAGES},
        "postgresql": _postgresql(servers),
        "rabbitmq": _rabbitmq(servers),
        "bias": BIAS,
    }


def lines(found: Mapping[str, Any]) -> Iterator[str]:
    """Return the conditions as lines for people."""
    for name, value in found.items():
        match value:
            case Mapping():
                said = ", ".join(f"{key} {item}" for key, item in value.items())
            case list():
                said = ", ".join(map(str, value))
            case _:
                said = str(value)
        yield f"{name}: {said}"


def one_line(found: Mapping[str, Any]) -> str:
    """Return the conditions that belong beside a figure, in one line."""
    machine, database, broker = found["machine"], found["postgresql"], found["rabbitmq"]
    return (
        f"{machine['cores']} cores ({machine['processor']}), on one machine; RabbitMQ {broker['version']} "
        f"quorum queues, PostgreSQL {database['server_version'].split()[0]} with fsync {database['fsync']}, "
        f"{found['at'][:10]}, {found['revision']}"
    )


def _machine() -> Iterator[tuple[str, Any]]:
    yield "cores", os.cpu_count()
    yield "processor", _processor()
    yield "memory", f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.1f} GiB"
    yield "system", f"{platform.system()} {platform.release()} {platform.machine()}"


def _processor() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return platform.processor() or "unknown"


def _revision() -> str:
    """Return the commit, with a mark where files differ from it; unknown without a history."""
    described = _git("describe", "--always", "--dirty", "--exclude=*")
    return described or "unknown"


def _git(*arguments: str) -> str:
    with suppress(OSError):
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True)
        return done.stdout.strip() if done.returncode == 0 else ""
    return ""


def _postgresql(servers: Servers) -> dict[str, str]:
    engine = ledger_engine(servers.postgres.address.url("postgres"))
    try:
        with engine.connect() as connection:
            return {name: connection.execute(text(f"SHOW {name}")).scalar_one() for name in _SHOWN}
    finally:
        engine.dispose()


def _rabbitmq(servers: Servers) -> dict[str, str]:
    with pika.BlockingConnection(pika.URLParameters(servers.rabbitmq.address.url("/"))) as connection:
        properties = connection._impl.server_properties
    return {
        "version": str(properties["version"]),
        "platform": str(properties.get("platform", "unknown")),
        "queues": "quorum, durable, persistent messages, publisher confirms",
        "schedulers": _ERLANG_ARGUMENTS if "rabbitmq" in servers.process_ids() else "unknown",
    }
