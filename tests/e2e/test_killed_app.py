"""An app killed with two hundred pending commands: charged once, and each outcome can be asked for."""

import subprocess
import sys
from collections.abc import Iterator

import pytest

from schemas import OpenAccount
from tests.support.apply_commands import applied
from tests.support.processes import ROOT, worker_environment
from tests.support.rabbit_client import RabbitClient
from tests.support.serve_process import ServeProcess, Serving
from tests.support.waiting import eventually
from tests.support.worker_thread import running
from worker.bootstrap import Application
from worker.broker import BILLING

PENDING, BALANCE = 200, 10_000
REFERENCES = [f"job/{number}" for number in range(PENDING)]
COMMANDS = [
    {"type": "usage.deduct", "referenceId": reference, "userId": "ann", "tokens": 1}
    for reference in REFERENCES
]
#: The app: it publishes all commands, says so, and waits for replies that it never reads.
APP = """
import sys
from tests.e2e.test_killed_app import COMMANDS
from tests.support.rabbit_client import RabbitClient
with RabbitClient(sys.argv[1]) as app:
    app.publish_all(COMMANDS)
    print("pending", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def server(application: Application, serving: Serving) -> ServeProcess:
    """The HTTP door of a ledger in which ann has 10,000 tokens."""
    settings = application.settings
    applied(
        application.engine,
        application.catalog,
        OpenAccount(reference_id="open", user_id="ann", tier="free"),
    )
    return serving(settings.database_url.get_secret_value())


@pytest.fixture
def app(application: Application) -> Iterator[subprocess.Popen[bytes]]:
    """The app's process, whose commands are all pending."""
    url = application.settings.broker_url.get_secret_value()
    with subprocess.Popen(
        [sys.executable, "-c", APP, url],
        cwd=ROOT,
        env=worker_environment(application.settings),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"pending\n"
        yield process
        process.kill()


def known(server: ServeProcess) -> list[dict[str, object]]:
    """Ask over HTTP for each reference, on one connection; return the replies that are known."""
    connection = server.connect()
    answers = [server.get(f"/v1/operation?referenceId={one}", connection) for one in REFERENCES]
    connection.close()
    assert [status for status, _ in answers] == [200] * PENDING
    assert [answer["referenceId"] for _, answer in answers] == REFERENCES
    return [answer["reply"] for _, answer in answers if answer["isKnown"]]


def sent_again(url: str) -> list[dict[str, object]]:
    """Send every command again, as the restarted app does; return the replies."""
    with RabbitClient(url) as app:
        replies = app.replies(app.publish_all(COMMANDS))
    return [reply for (reply,) in replies.values()]


def test_commands_of_a_killed_app_are_applied_once_and_each_can_be_asked_for(
    application: Application, server: ServeProcess, app: subprocess.Popen[bytes], rabbit: RabbitClient
) -> None:
    app.kill()
    app.wait()
    assert rabbit.depth(BILLING.work[1].name) == PENDING
    assert known(server) == [], "nothing is decided yet, and that is an answer"
    with running(application):
        eventually(lambda: server.get("/v1/balance?userId=ann")[1]["balance"] == BALANCE - PENDING)
        replies = known(server)
        assert {(reply["status"], reply["code"]) for reply in replies} == {("applied", "tokens_deducted")}
        assert len(replies) == PENDING
        again = sent_again(application.settings.broker_url.get_secret_value())
    assert all(reply["duplicate"] for reply in again)
    assert server.get("/v1/balance?userId=ann")[1]["balance"] == BALANCE - PENDING
    assert rabbit.depth(BILLING.dead.name) == 0


def test_app_that_sends_again_while_its_commands_are_decided_is_charged_once(
    application: Application, server: ServeProcess, app: subprocess.Popen[bytes], rabbit: RabbitClient
) -> None:
    with running(application):
        eventually(lambda: server.get(f"/v1/operation?referenceId={REFERENCES[0]}")[1]["isKnown"])
        app.kill()
        app.wait()
        again = sent_again(application.settings.broker_url.get_secret_value())
        assert {reply["status"] for reply in again} == {"applied"}
        assert len(known(server)) == PENDING
    assert server.get("/v1/balance?userId=ann")[1]["balance"] == BALANCE - PENDING
    assert rabbit.depth(BILLING.dead.name) == 0
