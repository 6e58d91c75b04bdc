"""`serve` as a process on PostgreSQL: real connections, a stop, an outage of the database."""

import json
import re
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from pathlib import Path
from urllib.parse import quote

import pytest
from sqlalchemy import Engine

from schemas import DeductUsage, OpenAccount
from tests.support.apply_commands import applied
from tests.support.database_roles import DatabaseRoles
from tests.support.load_scenario import through
from tests.support.pages import page, section
from tests.support.private_server import free_port
from tests.support.processes import worker_environment
from tests.support.provision import PostgresServer
from tests.support.serve_process import Serving
from tests.support.tcp_proxy import Proxy
from tests.support.waiting import PATIENCE_S, eventually
from worker.catalog import load_catalog
from worker.settings import load_settings

_STRANGE_IDS = ["org/7:member 12", "a?b=c&d=e", "%00", "100%", "a+b", "😀", "株式会社", "../..", "😀" * 200]


@pytest.fixture
def ada(postgres_engine: Engine) -> None:
    """Account of ada, with ten usages of 100 tokens."""
    open_ada(postgres_engine)


def open_ada(engine: Engine) -> None:
    """Open the account of ada, and charge it ten times."""
    applied(
        engine,
        load_catalog(),
        OpenAccount(reference_id="open-ada", user_id="ada", tier="basic"),
        *(DeductUsage(reference_id=f"job-{n}", user_id="ada", tokens=100) for n in range(10)),
    )


@pytest.mark.usefixtures("ada")
def test_one_connection_serves_many_requests(serving: Serving, postgres_url: str) -> None:
    server = serving(postgres_url)
    connection = server.connect()
    connection.connect()
    kept = connection.sock
    for _ in range(100):
        status, answer = server.get("/v1/balance?userId=ada", connection)
        assert (status, answer["totals"]["used"]) == (200, 1_000)
    assert connection.sock is kept
    connection.close()


@pytest.mark.usefixtures("ada")
def test_parallel_connections_get_their_own_answers(serving: Serving, postgres_url: str) -> None:
    server = serving(postgres_url)
    wrong: list[object] = []

    def ask(number: int) -> None:
        connection = server.connect()
        for turn in range(20):
            reference = f"job-{(number + turn) % 10}"
            status, answer = server.get(f"/v1/operation?referenceId={reference}", connection)
            if (status, answer["referenceId"], answer["isKnown"]) != (200, reference, True):
                wrong.append((status, answer))
        connection.close()

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert wrong == []


def test_id_may_hold_any_character(serving: Serving, postgres_url: str, postgres_engine: Engine) -> None:
    applied(
        postgres_engine,
        load_catalog(),
        *(
            OpenAccount(reference_id=f"open-{number}", user_id=user_id, tier="basic")
            for number, user_id in enumerate(_STRANGE_IDS)
        ),
    )
    server = serving(postgres_url)
    for user_id in _STRANGE_IDS:
        status, answer = server.get(f"/v1/balance?userId={quote(user_id, safe='')}")
        assert (status, answer["userId"]) == (200, user_id)
    status, problem = server.get("/v1/balance?userId=a%00b")
    assert (status, problem["field"]) == (400, "userId")


@pytest.mark.usefixtures("ada")
def test_sigterm_during_a_request_answers_it_first(
    serving: Serving, postgres_url: str, postgres_engine: Engine
) -> None:
    server = serving(postgres_url)
    connection = server.connect()
    with postgres_engine.begin() as locking:
        locking.exec_driver_sql("LOCK TABLE accounts IN ACCESS EXCLUSIVE MODE")
        connection.request("GET", "/v1/balance?userId=ada", headers=server.headers)
        eventually(lambda: _waits_for_a_lock(postgres_engine))
        server.process.send_signal(signal.SIGTERM)
        eventually(lambda: _is_refused(server.port))
        assert server.process.poll() is None
    response = connection.getresponse()
    assert (response.status, json.loads(response.read())["userId"]) == (200, "ada")
    assert response.getheader("Connection") == "close"
    code, log = server.ended()
    assert (code, log) == (0, "")


@pytest.mark.usefixtures("ada")
def test_slow_client_holds_nobody_up(serving: Serving, postgres_url: str) -> None:
    server = serving(postgres_url)
    with socket.create_connection(("127.0.0.1", server.port)) as slow:
        slow.sendall(b"GET /v1/balance?userId=ada HTTP/1.1\r\nHost: x\r\n")
        for _ in range(20):
            slow.sendall(b"X-Slow: yes\r\n")
            assert server.get("/v1/balance?userId=ada")[0] == 200
        slow.sendall(
            f"Authorization: {server.headers['Authorization']}\r\nConnection: close\r\n\r\n".encode()
        )
        assert slow.recv(12) == b"HTTP/1.1 200"


@pytest.mark.usefixtures("ada")
def test_outage_of_the_database_is_a_problem_and_ends_by_itself(
    serving: Serving, postgres: PostgresServer, postgres_url: str
) -> None:
    with Proxy(postgres.address.port) as proxy:
        server = serving(through(proxy, postgres_url))
        assert server.get("/readyz") == (200, {"state": "ready"})
        proxy.target = free_port()
        proxy.reset()
        status, problem = server.get("/v1/balance?userId=ada")
        assert (status, problem["code"]) == (503, "unavailable")
        assert "127.0.0.1" not in json.dumps(problem)
        eventually(lambda: server.get("/readyz")[0] == 503)
        assert server.get("/healthz") == (200, {"state": "live"})
        proxy.target = postgres.address.port
        eventually(lambda: server.get("/readyz")[0] == 200)
        eventually(lambda: server.get("/v1/balance?userId=ada")[0] == 200)


@pytest.mark.usefixtures("ada")
def test_server_starts_while_the_database_is_away(
    serving: Serving, postgres: PostgresServer, postgres_url: str
) -> None:
    with Proxy(free_port()) as proxy:
        server = serving(through(proxy, postgres_url))
        assert server.get("/readyz")[0] == 503
        proxy.target = postgres.address.port
        eventually(lambda: server.get("/readyz")[0] == 200)
        assert server.get("/v1/balance?userId=ada")[0] == 200


@pytest.mark.usefixtures("ada")
def test_log_names_no_user_and_no_token_and_metrics_are_served(serving: Serving, postgres_url: str) -> None:
    port = free_port()
    server = serving(postgres_url, log_level="DEBUG", metrics_port=port)
    server.get("/v1/balance?userId=ada")
    server.get("/v1/balance?userId=secret-user")
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as scraped:
        metrics = scraped.read().decode()
    assert 'billing_worker_http_requests_total{route="/v1/balance",status="200"} 1.0' in metrics
    assert 'billing_worker_http_requests_total{route="/v1/balance",status="404"} 1.0' in metrics
    server.process.send_signal(signal.SIGTERM)
    code, log = server.ended()
    assert code == 0
    assert "GET /v1/balance 200" in log
    assert "secret-user" not in log
    assert server.headers["Authorization"].removeprefix("Bearer ") not in log


def test_role_of_a_reader_suffices(
    serving: Serving, postgres: PostgresServer, postgres_template: str
) -> None:
    with DatabaseRoles(postgres, postgres_template) as roles:
        roles.make()
        open_ada(roles.engine)
        server = serving(roles.url(roles.names.reader))
        assert server.get("/readyz")[0] == 200
        for path in ("balance?userId=ada", "afford?userId=ada&tokens=5", "history?userId=ada&status=all"):
            assert server.get(f"/v1/{path}")[0] == 200
        for path in ("usage?userId=ada&groupBy=feature", "operation?referenceId=job-1", "catalog"):
            assert server.get(f"/v1/{path}")[0] == 200
        server.process.terminate()
        assert server.ended() == (0, "")


@pytest.mark.usefixtures("ada")
def test_example_of_the_page_shows_a_balance(postgres_url: str, tmp_path: Path) -> None:
    (block,) = re.findall(
        r"```sh\n(.*?)```", section(page("worker/OPERATING.md"), "Serve queries over HTTP"), re.DOTALL
    )
    port = free_port()
    settings = load_settings(database_url=postgres_url, http_listen=f"127.0.0.1:{port}")
    environment = {**worker_environment(settings), "WORKER": sys.executable}
    block = block.replace("billing-worker", '"$WORKER" -m worker').replace(":8801", f":{port}")
    make, start, ask = block.strip().splitlines()
    made = ["sh", "-c", f'{make}\nprintf %s "$TOKEN"']
    token = subprocess.check_output(made, cwd=tmp_path, env=environment, text=True)
    with subprocess.Popen(["sh", "-c", f"exec {start}"], cwd=tmp_path, env=environment) as process:
        eventually(lambda: not _is_refused(port))
        # The shell expands the words; curl itself may be missing on a machine that tests.
        words = ["sh", "-c", ask.replace("curl ", "printf '%s\\n' ", 1)]
        flag, header, url = subprocess.check_output(words, env={"TOKEN": token}, text=True).splitlines()
        assert flag == "-H"
        request = urllib.request.Request(url, headers=dict([header.split(": ", 1)]))  # noqa: S310 - our own
        with urllib.request.urlopen(request) as answer:  # noqa: S310 - our own
            assert json.loads(answer.read())["userId"] == "ada"
        process.terminate()
        assert process.wait(PATIENCE_S) == 0


def _waits_for_a_lock(engine: Engine) -> bool:
    with engine.connect() as connection:
        found = connection.exec_driver_sql(
            "SELECT count(*) FROM pg_stat_activity"
            " WHERE datname = current_database() AND wait_event_type = 'Lock'"
        )
        return bool(found.scalar_one())


def _is_refused(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port)).close()
    except ConnectionRefusedError:
        return True
    return False
