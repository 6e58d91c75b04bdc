"""Sizes for OPERATING, "Sizing": memory of each process after ten thousand messages, bytes of a dead letter.

``python -m tests.benchmarks.sizing`` prints them as they are written down there. It is none of the
benchmarks: memory has no rate and no goal.
"""

import http.client
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

import click
from sqlalchemy import text

from tests.benchmarks import conditions, trees
from tests.benchmarks.loads import deductions, in_turns, outgoing
from tests.benchmarks.queries import balances_asked
from tests.benchmarks.sandbox import ProcessCommand, Sandbox, new_sandbox, started_servers, user_id
from tests.deadletters.parts import failed
from tests.support.private_server import free_port
from tests.support.rabbit_client import user_of
from tests.support.waiting import eventually
from worker.broker import BILLING, Outgoing
from worker.console.users import Role, write_user
from worker.settings import environment_of

MESSAGES, USERS = 10_000, 1_000
_PATIENCE_S = 300.0
_SIZE = (
    "SELECT sum(pg_total_relation_size(to_regclass(name)))"
    " FROM unnest(ARRAY['dead_letters', 'dead_letter_events', 'dead_letter_groups']) AS name"
)


def main() -> None:
    """Measure each kind of process by itself, and print a line for each."""
    with started_servers() as servers:
        for line in conditions.lines(conditions.conditions(servers)):
            click.echo(line)
        for name, measure in _MEASURES.items():
            with new_sandbox(servers) as sandbox, TemporaryDirectory() as folder:
                click.echo(f"{name}: {measure(sandbox, Path(folder))}")


def _quietly(_step: str, _done: int, _total: int) -> None:
    """Show no progress: a line comes every few seconds."""


# -- messages ---------------------------------------------------------------------------------------------


def _worker(sandbox: Sandbox, _: Path) -> str:
    sandbox.open_accounts(USERS)
    sandbox.prefill(outgoing(deductions(MESSAGES, in_turns(USERS))), _quietly)
    sizes: list[str] = []
    sandbox.drain(
        "worker",
        sandbox.worker(),
        MESSAGES,
        progress=_quietly,
        watch=lambda _, processes: sizes.append(_memory(processes[0])),
    )
    return sizes[-1]


def _reader(sandbox: Sandbox, _: Path) -> str:
    sandbox.open_accounts(USERS)
    user = user_of(sandbox.broker_url)
    queue = f"{BILLING.replies.name}.{user}.bench"
    with closing(sandbox.application.link()) as link:
        link.declare_temporary(queue)
    sandbox.prefill(balances_asked(MESSAGES, USERS, queue, user), _quietly)
    sizes: list[str] = []
    sandbox.drain(
        "reader",
        sandbox.readers(),
        MESSAGES,
        replies_queue=queue,
        progress=_quietly,
        watch=lambda _, processes: sizes.append(_memory(processes[0])),
    )
    return sizes[-1]


def _scheduler(sandbox: Sandbox, _: Path) -> str:
    """Let it drain dead letters of 150 bytes each, and tell what they take on disk."""
    sandbox.prefill(_dead_letters(user_of(sandbox.broker_url)), _quietly)
    engine = sandbox.application.engine

    def count() -> int:
        with engine.connect() as connection:
            return int(connection.execute(text("SELECT count(*) FROM dead_letters")).scalar_one())

    with engine.connect() as connection:
        before = int(connection.execute(text(_SIZE)).scalar_one())
    memory = _during(sandbox, "scheduler", [], {}, lambda: count() == MESSAGES)
    with engine.connect() as connection:
        grown = int(connection.execute(text(_SIZE)).scalar_one()) - before
    return f"{memory}; a dead letter of {len(_body(0))} bytes takes {grown / MESSAGES:,.0f} bytes"


def _dead_letters(user: str) -> Iterator[Outgoing]:
    for number in range(MESSAGES):
        delivery = failed(_body(number), properties={"message_id": f"message-{number:08}", "app_id": "bench"})
        properties = {**delivery.properties, "user_id": user}
        yield Outgoing(delivery.body, "", BILLING.dead.name, properties, delivery.headers)


def _body(number: int) -> bytes:
    message = {
        "type": "usage.deduct",
        "referenceId": f"bench-{number:08}",
        "userId": user_id(number % USERS),
        "tokens": 12,
        "featureName": "chat",
        "metadata": {"document": f"d-{number:08}"},
    }
    return json.dumps(message).encode()


# -- requests ---------------------------------------------------------------------------------------------


def _console(sandbox: Sandbox, folder: Path) -> str:
    users, port = folder / "users", free_port()
    write_user(users, "ann", Role.VIEWER, "a long password for a benchmark")
    arguments = ["--listen", f"127.0.0.1:{port}", "--users", str(users)]
    return _during(sandbox, "console", arguments, {}, lambda: _requested(port, "GET", "/sign-in"))


def _bridge(sandbox: Sandbox, folder: Path) -> str:
    """Let it refuse webhooks without a signature: each is read, and none is published."""
    port, config = free_port(), folder / "bridge.toml"
    config.write_text('[stripe]\nuser_key = "user_id"\n')
    secrets = {"BILLING_BRIDGE_STRIPE_SECRETS": "whsec_0123456789abcdef0123456789abcdef"}
    arguments = ["--listen", f"127.0.0.1:{port}", "--config", str(config)]
    return _during(
        sandbox, "bridge", arguments, secrets, lambda: _requested(port, "POST", "/webhooks/stripe")
    )


def _requested(port: int, method: str, path: str) -> bool:
    """Send all requests on one connection; False while nobody listens."""
    try:
        with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=30)) as connection:
            for _ in range(MESSAGES):
                connection.request(method, path, body=b"{}" if method == "POST" else None)
                connection.getresponse().read()
    except ConnectionRefusedError:
        return False
    return True


# -- processes --------------------------------------------------------------------------------------------


def _during(
    sandbox: Sandbox,
    command: str,
    arguments: list[str],
    variables: Mapping[str, str],
    is_done: Callable[[], bool],
) -> str:
    """Run a command until ``is_done``, and return its memory then."""
    environment = {**environment_of(sandbox.application.settings), **variables}
    started: ProcessCommand = ([sys.executable, "-m", "worker", command, *arguments], environment)
    with sandbox.running(command, [started]) as ids:
        eventually(is_done, patience_s=_PATIENCE_S, what=command)
        return _memory(ids[0])


def _memory(process: int) -> str:
    each = [trees.resident_bytes_of(member) / 1e6 for member in trees.members([process])]
    return " + ".join(f"{size:.0f}" for size in each) + " MB resident"


_MEASURES: Mapping[str, Callable[[Sandbox, Path], str]] = {
    "worker, deductions": _worker,
    "reader, balances": _reader,
    "scheduler, dead letters drained": _scheduler,
    "console, pages": _console,
    "bridge, webhooks refused": _bridge,
}

if __name__ == "__main__":
    main()
