"""Private RabbitMQ server."""

from __future__ import annotations

import http.client
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Self

import pika
import pika.exceptions

from tests.support.private_server import (
    POLL_INTERVAL_S,
    START_TIMEOUT_S,
    PrivateServer,
    ServerError,
    ServerOwner,
    StopMode,
    base_environment,
    free_port,
    spawn,
    started,
)
from tests.support.rabbitmq_management import ManagementClient, ManagementError, RabbitMQAddress, connected


def rabbitmq_binary() -> Path | None:
    """Return the ``rabbitmq-server`` script; None where RabbitMQ or epmd is missing."""
    # Debian's script on PATH insists on being the rabbitmq user; the one behind it does not.
    packaged = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
    on_path = shutil.which("rabbitmq-server")
    script = packaged if packaged.exists() else Path(on_path) if on_path else None
    return script if shutil.which("epmd") else None


# Rates stay off, they cost CPU. A new connection is listed only after the shortest sampling
# interval, which is five seconds unless set.
_RABBITMQ_SETTINGS = """
listeners.tcp.1 = 127.0.0.1:{port}
management.tcp.ip = 127.0.0.1
management.tcp.port = {management_port}
loopback_users = none
default_user = {user}
default_pass = {password}
disk_free_limit.absolute = 50MB
vm_memory_high_watermark.absolute = 2GB
collect_statistics_interval = 1000
management.rates_mode = none
management.sample_retention_policies.global.minute = 1
management.sample_retention_policies.basic.minute = 1
management.sample_retention_policies.detailed.minute = 1
log.console = false
log.file.level = info
"""


# Schedulers sleep instead of spinning: the machine belongs to the code under test.
_ERLANG_ARGUMENTS = (
    "+sbwt none +sbwtdcpu none +sbwtdio none "
    "-kernel inet_dist_use_interface {127,0,0,1} "
    "-rabbit quorum_tick_interval 500"
)


class RabbitMQ(PrivateServer):
    """A private RabbitMQ node with its own epmd, cookie and management listener, on loopback."""

    name = "RabbitMQ"
    _stop_signals: ClassVar[Mapping[StopMode, signal.Signals]] = {
        "fast": signal.SIGTERM,
        "immediate": signal.SIGKILL,
    }

    def __init__(
        self,
        folder: Path,
        script: Path,
        consumer_timeout_s: int | None,
        settings: Sequence[str] = (),
        plugins: Sequence[str] = (),
        definitions: Callable[[RabbitMQAddress], str] | None = None,
    ) -> None:
        super().__init__(folder)
        self._script, self._consumer_timeout_s = script, consumer_timeout_s
        self._settings, self._plugins = settings, ("rabbitmq_management", *plugins)
        self._definitions = definitions
        self._epmd: subprocess.Popen[bytes] | None = None
        self._distribution_port = free_port()
        self._epmd_port = free_port()
        self._management_port = free_port()
        self.address = RabbitMQAddress(
            host="127.0.0.1",
            port=free_port(),
            management_url=f"http://127.0.0.1:{self._management_port}",
            user="billing",
            password=secrets.token_hex(12),
        )
        self.management = ManagementClient(self.address)

    @classmethod
    def start(
        cls,
        folder: Path | None = None,
        *,
        consumer_timeout_s: int | None = None,
        settings: Sequence[str] = (),
        plugins: Sequence[str] = (),
        definitions: Callable[[RabbitMQAddress], str] | None = None,
    ) -> Self:
        """A new, empty broker, with management on, and ``settings`` as lines of its configuration.

        Its own folder is made inside ``folder`` (default: the system's temporary folder). A consumer that
        holds a delivery longer than ``consumer_timeout_s`` (default: 1,800) loses its channel within a
        second. ``definitions`` makes what the node loads at each start: then it has no other users. Raises
        ServerError when RabbitMQ is not installed or does not come up.
        """
        script = rabbitmq_binary()
        if script is None:
            raise ServerError("RabbitMQ is not installed: run python -m tests.support.provision")
        own = Path(tempfile.mkdtemp(prefix="billing-rabbitmq-", dir=folder))
        server = cls(own, script, consumer_timeout_s, settings, plugins, definitions)
        return started(server, server._configure)

    def _configure(self) -> None:
        settings = _RABBITMQ_SETTINGS.format(
            port=self.address.port,
            management_port=self._management_port,
            user=self.address.user,
            password=self.address.password,
        )
        if self._consumer_timeout_s is not None:
            settings += f"consumer_timeout = {self._consumer_timeout_s * 1000}\n"
        settings += "".join(f"{line}\n" for line in self._settings)
        if self._definitions is not None:
            (self.folder / "definitions.json").write_text(self._definitions(self.address))
            settings += f"load_definitions = {self.folder / 'definitions.json'}\n"
        (self.folder / "rabbitmq.conf").write_text(settings)
        (self.folder / "advanced.config").write_text("[].\n")
        (self.folder / "environment.conf").write_text("")
        (self.folder / "enabled_plugins").write_text(f"[{','.join(self._plugins)}].\n")

    def _launch(self) -> subprocess.Popen[bytes]:
        # Ours is there before the node looks for one: the node would leave a daemon behind.
        epmd = ["epmd", "-port", str(self._epmd_port), "-address", "127.0.0.1"]
        self._epmd = self._child(epmd)
        self._wait_for_epmd()
        # RABBITMQ_ALLOW_INPUT makes the script become the node, so that signals reach it.
        return self._child([str(self._script), "-noinput"])

    def _wait_for_epmd(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        while not _listens(self._epmd_port):
            if time.monotonic() > deadline:
                raise self._failure("got no epmd")
            time.sleep(POLL_INTERVAL_S)

    def _child(self, arguments: Sequence[str]) -> subprocess.Popen[bytes]:
        return spawn(
            arguments,
            folder=self.folder,
            environment=self._environment(),
            owner=ServerOwner(),
            death_signal="KILL",
        )

    def _environment(self) -> dict[str, str]:
        files = {
            "RABBITMQ_MNESIA_BASE": "data",
            "RABBITMQ_LOG_BASE": "log",
            "RABBITMQ_CONFIG_FILE": "rabbitmq.conf",
            "RABBITMQ_ADVANCED_CONFIG_FILE": "advanced.config",
            "RABBITMQ_CONF_ENV_FILE": "environment.conf",
            "RABBITMQ_ENABLED_PLUGINS_FILE": "enabled_plugins",
        }
        return {
            **base_environment(self.folder),
            **{variable: str(self.folder / name) for variable, name in files.items()},
            "RABBITMQ_NODENAME": f"billing-{self.address.port}@localhost",
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(self.address.port),
            "RABBITMQ_DIST_PORT": str(self._distribution_port),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": self._erlang_arguments,
            "RABBITMQ_ALLOW_INPUT": "1",
            "ERL_EPMD_PORT": str(self._epmd_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
        }

    @property
    def _erlang_arguments(self) -> str:
        if self._consumer_timeout_s is None:
            return _ERLANG_ARGUMENTS
        # Channels look for overdue deliveries with their tick, once a minute unless set; there is no key
        # for it in rabbitmq.conf.
        return f"{_ERLANG_ARGUMENTS} -rabbit channel_tick_interval 500"

    def _answers(self) -> bool:
        if not _listens(self.address.port):
            return False
        try:
            connected(self.address.url()).close()
            self.management.ping()
        except (pika.exceptions.AMQPError, OSError, http.client.HTTPException, ManagementError):
            return False
        return True

    def _kill(self) -> None:
        super()._kill()
        if self._epmd is not None:
            self._epmd.kill()
            self._epmd.wait()
        self._epmd = None

    def _logs(self) -> Sequence[Path]:
        return [self.folder / "output.log", *sorted((self.folder / "log").glob("*.log"))]


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
