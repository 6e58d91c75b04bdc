"""Installation on real servers: services of a format as plain processes, as the users that it names."""

import json
import re
import subprocess
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from secrets import token_hex
from types import TracebackType
from typing import Any, Self
from uuid import uuid4

from sqlalchemy import make_url

from schemas import OpenAccount, QueryBalance
from tests.support.database_roles import drop_roles
from tests.support.deployed import LOOPS, DeployedService
from tests.support.private_server import free_port
from tests.support.processes import WorkerProcesses, run_cli
from tests.support.provision import PostgresServer, RabbitMQServer
from tests.support.rabbitmq_management import BrokerConnection, ManagementError
from tests.support.waiting import eventually
from worker.broker.roles import USERS
from worker.client import BillingClient
from worker.errors import BillingError
from worker.ledger.roles import RoleNames
from worker.settings import Settings, load_settings

_ANSWER_S = 5.0
#: Names of the superuser's secret, in every format.
_SUPERUSER = "postgres"


def make_secrets(folder: Path) -> Path:
    """Write a password for each login into the new ``folder``; return it."""
    folder.mkdir(mode=0o700)
    for name in (_SUPERUSER, *RoleNames().logins, *(user.name for user in USERS)):
        (folder / name).write_text(token_hex(24) + "\n")
    return folder


class Installation:
    """Services of a format on the servers of a test; neither processes nor logins outlive the block.

    ``secrets`` is the folder of the passwords. Only addresses, and the superuser's password, are changed.
    """

    def __init__(
        self,
        services: Mapping[str, DeployedService],
        postgres: PostgresServer,
        rabbitmq: RabbitMQServer,
        secrets: Path,
    ) -> None:
        self._services, self._secrets = services, secrets
        self._postgres, self._rabbitmq = postgres, rabbitmq
        self.database = self.vhost = f"installed_{uuid4().hex[:8]}"
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._processes: dict[str, WorkerProcesses] = {}
        self._ports: dict[str, int] = {}
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        self._postgres.databases.create_database(self.database)
        self._rabbitmq.management.create_vhost(self.vhost)
        (self._secrets / _SUPERUSER).chmod(0o600)
        (self._secrets / _SUPERUSER).write_text(self._postgres.address.password)
        return self

    def __exit__(
        self,
        _type: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        self._stack.close()
        self._rabbitmq.management.delete_vhost(self.vhost)
        self._postgres.databases.drop_database(self.database)
        names = RoleNames()
        drop_roles(self._postgres, names.owner, *names.logins, names.privacy)
        for user in USERS:
            with suppress(ManagementError):
                self._rabbitmq.management.delete_user(user.name)

    def settings(self, name: str) -> Settings:
        """Return the settings of a service, on the servers of the test."""
        given: dict[str, Any] = self._services[name].settings(self._secrets)
        places = {
            "broker_url": f"@{self._rabbitmq.address.host}:{self._rabbitmq.address.port}/{self.vhost}",
            "database_url": f"@{self._postgres.address.host}:{self._postgres.address.port}/{self.database}",
        }
        for url, place in places.items():
            if url in given:
                given[url] = re.sub("@.*", place, given[url])
        if name == "migrate":  # the superuser of an installation is not that of the test's server
            given["database_url"] = re.sub(
                "//.*@", f"//{self._postgres.address.user}@", given["database_url"]
            )
        if "metrics_port" in given:
            given |= {"metrics_port": self.port(name), "metrics_listen": "127.0.0.1"}
        return load_settings(**given, management_url=self._rabbitmq.address.management_url)

    def port(self, name: str) -> int:
        """Return the port for the probes of a service."""
        return self._ports.setdefault(name, free_port())

    # -- commands that end --------------------------------------------------------------------------------

    def run(self, name: str, *words: str) -> str:
        """Run the command of a service to its end, or ``words`` with its settings; return what it prints."""
        arguments = words or self._services[name].arguments(self._secrets)
        done = run_cli(self.settings(name), *arguments)
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout.decode()

    def migrate(self) -> None:
        """Run the migration."""
        assert "schema at" in self.run("migrate")

    def load_definitions(self, words: list[str]) -> None:
        """Write the definitions by ``words`` and load them, as RabbitMQ would at its start."""
        place = words.index("--output") + 1
        file = self._secrets.with_name("definitions.json")
        words = [*words[:place], str(file), *words[place + 1 :], "--vhost", self.vhost]
        done = run_cli(
            load_settings(), *(re.sub("^(%d|/run/secrets)$", str(self._secrets), word) for word in words)
        )
        assert done.returncode == 0, done.stderr.decode()
        self._rabbitmq.management.import_definitions(json.loads(file.read_text()))

    # -- processes that go on -----------------------------------------------------------------------------

    def start(self, name: str, **variables: str) -> subprocess.Popen[bytes]:
        """Start a service, which must not run."""
        assert name not in self._running
        if name not in self._processes:
            self._processes[name] = self._stack.enter_context(WorkerProcesses(self.settings(name)))
        command, *words = self._services[name].arguments(self._secrets)
        self._running[name] = self._processes[name].start(*words, command=command, **variables)
        return self._running[name]

    def kill(self, name: str) -> None:
        """Kill a service, as the kernel does when memory runs out."""
        process = self._running.pop(name)
        process.kill()
        process.communicate(timeout=30)

    def end_sessions(self, server: str) -> None:
        """Have a server end all sessions of the installation, as it does when it stops."""
        if server == "postgres":
            self._postgres.databases.disconnect(self.database)
            return
        connections = eventually(self._connections, what="connections of all services")
        for connection in connections:
            with suppress(ManagementError):  # it may have ended meanwhile
                self._rabbitmq.management.close_connection(connection.name)

    def _connections(self) -> list[BrokerConnection]:
        """Return the connections of the services; none while one service has none."""
        logins = {make_url(self.settings(name).broker_url.get_secret_value()).username for name in LOOPS}
        found = self._rabbitmq.management.list_connections(self.vhost)
        return found if logins <= {connection.user for connection in found} else []

    def stop_all(self) -> dict[str, str]:
        """Stop all services in order; each must end with 0. Return their logs."""
        logs = {name: self._processes[name].stop(process) for name, process in self._running.items()}
        self._running.clear()
        assert {name: code for name, (code, _) in logs.items()} == dict.fromkeys(logs, 0), logs
        return {name: log for name, (_, log) in logs.items()}

    @property
    def runs_all(self) -> bool:
        """True while each loop runs."""
        return set(self._running) == set(LOOPS) and all(
            process.poll() is None for process in self._running.values()
        )

    # -- the app ------------------------------------------------------------------------------------------

    def answers(self) -> None:
        """Open an account as the app, and ask for its balance, until there is a reply and an answer."""
        name = uuid4().hex
        eventually(lambda: self._is_applied(name), what="a command is applied")
        eventually(lambda: self._is_answered(name), what="a query is answered")

    def _is_applied(self, name: str) -> bool:
        command = OpenAccount(reference_id=name, user_id=name, tier="free")
        with suppress(BillingError, TimeoutError), BillingClient(self._app) as client:
            return client.request(command, timeout_s=_ANSWER_S).status == "applied"
        return False

    def _is_answered(self, name: str) -> bool:
        with suppress(BillingError, TimeoutError), BillingClient(self._app) as client:
            return client.ask(QueryBalance(user_id=name), timeout_s=_ANSWER_S).type == "answer.balance"
        return False

    @property
    def _app(self) -> str:
        password = (self._secrets / "app").read_text().strip()
        address = self._rabbitmq.address
        return f"amqp://app:{password}@{address.host}:{address.port}/{self.vhost}"
