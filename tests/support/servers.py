"""Private PostgreSQL and RabbitMQ servers for the tests and the benchmarks.

Each server runs from installed binaries on free loopback ports, keeps everything in a temporary
folder of its own and dies with the Python process that started it, even one killed with SIGKILL.
Durability is real: ``fsync`` and ``synchronous_commit`` are on, and what a server acknowledged is
there again after ``stop`` and ``resume``.

Which servers a test run uses, and how missing binaries are installed, is decided in
:mod:`tests.support.provision`.
"""

from __future__ import annotations

import atexit
import base64
import contextlib
import http.client
import json
import os
import pwd
import random
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from queue import SimpleQueue
from typing import Any, ClassVar, Literal, Self, TypeVar
from urllib.parse import quote, unquote, urlsplit

import pika
import pika.exceptions
from sqlalchemy import NullPool, create_engine
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import OperationalError

START_TIMEOUT_S = 90.0
STOP_TIMEOUT_S = 60.0
POLL_INTERVAL_S = 0.02
REQUEST_TIMEOUT_S = 30.0
LOG_TAIL_LINES = 30

StopMode = Literal["fast", "immediate"]


class ServerError(Exception):
    """Failure to find, start or stop a server; the text says what to do next."""


class ManagementError(Exception):
    """Refusal by RabbitMQ's management API; the text has method, path, status and body."""


# --- addresses ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class PostgresAddress:
    """Address of a PostgreSQL server, and the superuser to talk to it with."""

    host: str
    port: int
    user: str
    password: str

    @classmethod
    def parse(cls, url: str) -> Self:
        """The server part of an SQLAlchemy URL; the database named in it is dropped."""
        parts = make_url(url)
        return cls(
            host=parts.host or "127.0.0.1",
            port=5432 if parts.port is None else parts.port,
            user=parts.username or "postgres",
            password=str(parts.password or ""),
        )

    def url(self, database: str) -> str:
        """An SQLAlchemy URL (``postgresql+psycopg2://…``) with the password in clear text."""
        return URL.create(
            "postgresql+psycopg2",
            username=self.user,
            password=self.password,
            host=self.host,
            port=self.port,
            database=database,
        ).render_as_string(hide_password=False)


@dataclass(frozen=True)
class RabbitMQAddress:
    """Addresses of a RabbitMQ broker for AMQP and for management, and its administrator."""

    host: str
    port: int
    management_url: str
    user: str
    password: str

    @classmethod
    def parse(cls, broker_url: str, management_url: str) -> Self:
        """The server part of an ``amqp://`` URL; the vhost named in it is dropped."""
        parts = urlsplit(broker_url)
        return cls(
            host=parts.hostname or "127.0.0.1",
            port=5672 if parts.port is None else parts.port,
            management_url=management_url.rstrip("/"),
            user=unquote(parts.username or "guest"),
            password=unquote(parts.password or "guest"),
        )

    def url(self, vhost: str = "/") -> str:
        """An ``amqp://`` URL of one vhost, percent-encoded, with the password in clear text."""
        login = f"{quote(self.user, safe='')}:{quote(self.password, safe='')}"
        return f"amqp://{login}@{self.host}:{self.port}/{quote(vhost, safe='')}"


# --- administration, the same for private and for given servers -----------------------------------


class Databases:
    """Creation and removal of databases on one PostgreSQL server."""

    def __init__(self, address: PostgresAddress) -> None:
        self._engine = create_engine(
            address.url("postgres"), poolclass=NullPool, isolation_level="AUTOCOMMIT"
        )

    def create_database(self, name: str, template: str | None = None) -> None:
        """Create a database, as a copy of ``template`` where one is named.

        Raises sqlalchemy.exc.ProgrammingError when the name is taken, OperationalError when
        somebody is connected to the template or the server is away.
        """
        source = "" if template is None else f" TEMPLATE {self._quoted(template)}"
        self._execute(f"CREATE DATABASE {self._quoted(name)}{source}")

    def drop_database(self, name: str) -> None:
        """Drop a database if it is there, and disconnect whoever uses it."""
        self._execute(f"DROP DATABASE IF EXISTS {self._quoted(name)} WITH (FORCE)")

    def ping(self) -> None:
        """Run one query; raises sqlalchemy.exc.OperationalError when the server does not answer."""
        self._execute("SELECT 1")

    def _quoted(self, name: str) -> str:
        return self._engine.dialect.identifier_preparer.quote_identifier(name)

    def _execute(self, statement: str) -> None:
        with self._engine.connect() as connection:
            connection.exec_driver_sql(statement)


@dataclass(frozen=True)
class QueueCounts:
    """Messages of one queue: waiting, and delivered without an acknowledgement yet."""

    ready: int
    unacknowledged: int


@dataclass(frozen=True)
class BrokerConnection:
    """One open AMQP connection, by the name that ``ManagementClient.close_connection`` takes."""

    name: str
    vhost: str
    user: str


class ManagementClient:
    """Client of RabbitMQ's management API, with the calls that tests need.

    Every method raises ManagementError when the broker refuses and OSError when it is away.
    """

    def __init__(self, address: RabbitMQAddress) -> None:
        self._address = address
        self._base = urlsplit(address.management_url)
        login = base64.b64encode(f"{address.user}:{address.password}".encode()).decode()
        self._headers = {"Authorization": f"Basic {login}", "Content-Type": "application/json"}

    def ping(self) -> None:
        """Ask for our user name, to check listener, login and API."""
        self._request("GET", "whoami")

    def create_vhost(self, name: str) -> None:
        """Create a vhost and give our user every permission in it."""
        self._request("PUT", f"vhosts/{_segment(name)}", {})
        everything = {"configure": ".*", "write": ".*", "read": ".*"}
        permissions = f"permissions/{_segment(name)}/{_segment(self._address.user)}"
        self._request("PUT", permissions, everything)

    def create_user(
        self, name: str, password: str, vhost: str, *, configure: str = "", write: str = "", read: str = ""
    ) -> str:
        """Create a user with these permissions in ``vhost`` alone; return its ``amqp://`` URL.

        Permissions are regular expressions on names of exchanges and queues; an empty one allows nothing.
        """
        self._request("PUT", f"users/{_segment(name)}", {"password": password, "tags": ""})
        permissions = {"configure": configure, "write": write, "read": read}
        self._request("PUT", f"permissions/{_segment(vhost)}/{_segment(name)}", permissions)
        return replace(self._address, user=name, password=password).url(vhost)

    def delete_user(self, name: str) -> None:
        """Delete a user; its open connections stay."""
        self._request("DELETE", f"users/{_segment(name)}")

    def delete_vhost(self, name: str) -> None:
        """Delete a vhost with its queues, and close the connections to it."""
        self._request("DELETE", f"vhosts/{_segment(name)}")

    def set_policy(
        self,
        vhost: str,
        name: str,
        *,
        pattern: str,
        definition: Mapping[str, object],
        apply_to: Literal["queues", "exchanges", "all"] = "queues",
        priority: int = 0,
    ) -> None:
        """Create or replace a policy; ``pattern`` is a regular expression on queue names."""
        body: dict[str, object] = {"pattern": pattern, "definition": dict(definition)}
        body |= {"apply-to": apply_to, "priority": priority}
        self._request("PUT", f"policies/{_segment(vhost)}/{_segment(name)}", body)

    def queue_depth(self, vhost: str, queue: str) -> int:
        """Messages ready in a queue now, by a passive declaration.

        Exact, but for the first second after ``resume``: a quorum queue that still replays its
        log counts low, so wait for the number you expect. Raises
        pika.exceptions.ChannelClosedByBroker when there is no such queue.
        """
        with contextlib.closing(_connect(self._address.url(vhost))) as connection:
            declared = connection.channel().queue_declare(queue, passive=True)
            return int(declared.method.message_count)

    def queue_depths(self, vhost: str) -> dict[str, QueueCounts]:
        """Depths of all queues of a vhost by name; a quorum queue's is half a second behind."""
        # Asked for totals alone, the broker counts now instead of showing its last sample.
        totals = "disable_stats=true&enable_queue_totals=true"
        queues: list[dict[str, Any]] = self._request("GET", f"queues/{_segment(vhost)}?{totals}")
        return {
            queue["name"]: QueueCounts(
                ready=int(queue.get("messages_ready", 0)),
                unacknowledged=int(queue.get("messages_unacknowledged", 0)),
            )
            for queue in queues
        }

    def list_connections(self, vhost: str | None = None) -> list[BrokerConnection]:
        """Open AMQP connections, of one vhost where named; about a second behind."""
        path = "connections" if vhost is None else f"vhosts/{_segment(vhost)}/connections"
        connections: list[dict[str, Any]] = self._request("GET", path)
        # A connection shows up with a name only before its other facts have been collected.
        return [
            BrokerConnection(entry["name"], entry["vhost"], entry["user"])
            for entry in connections
            if "vhost" in entry and "user" in entry
        ]

    def close_connection(self, name: str, reason: str = "closed by a test") -> None:
        """Close one connection from the broker's side (the client sees CONNECTION_FORCED)."""
        self._request("DELETE", f"connections/{_segment(name)}", headers={"X-Reason": reason})

    def _request(
        self,
        method: str,
        path: str,
        body: object = None,
        headers: Mapping[str, str] | None = None,
    ) -> Any:
        payload = None if body is None else json.dumps(body)
        full_path = f"{self._base.path}/api/{path}"
        with contextlib.closing(self._open()) as connection:
            connection.request(method, full_path, payload, {**self._headers, **(headers or {})})
            response = connection.getresponse()
            content = response.read().decode()
        if response.status >= 400:
            raise ManagementError(f"{method} {full_path}: {response.status} {content}")
        return json.loads(content) if content else None

    def _open(self) -> http.client.HTTPConnection:
        secure = self._base.scheme == "https"
        kind = http.client.HTTPSConnection if secure else http.client.HTTPConnection
        return kind(self._base.hostname or "", self._base.port, timeout=REQUEST_TIMEOUT_S)


def _segment(name: str) -> str:
    return quote(name, safe="")


def _connect(url: str) -> Any:
    parameters = pika.URLParameters(url)
    parameters.socket_timeout = parameters.stack_timeout = REQUEST_TIMEOUT_S
    parameters.blocked_connection_timeout = REQUEST_TIMEOUT_S
    return pika.BlockingConnection(parameters)


# --- binaries ------------------------------------------------------------------------------------


def postgres_binaries() -> Path | None:
    """The folder with ``postgres`` and ``initdb``, the one on PATH first; None without one."""
    on_path = shutil.which("postgres")
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=major_version, reverse=True)
    folders = ([Path(on_path).resolve().parent] if on_path else []) + versions
    return next((folder for folder in folders if (folder / "initdb").exists()), None)


def rabbitmq_binary() -> Path | None:
    """The ``rabbitmq-server`` script, or None where RabbitMQ or epmd is missing."""
    # Debian's script on PATH insists on being the rabbitmq user; the one behind it does not.
    packaged = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
    on_path = shutil.which("rabbitmq-server")
    script = packaged if packaged.exists() else Path(on_path) if on_path else None
    return script if shutil.which("epmd") else None


def major_version(binaries: Path) -> float:
    """Version of the PostgreSQL of ``binaries``, by their folder's name; 0 where it doesn't say."""
    version = binaries.parent.name
    return float(version) if version.replace(".", "", 1).isdigit() else 0.0


# --- processes -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Owner:
    """System user of a server; None stands for the user who runs Python."""

    user: int | None = None
    group: int | None = None

    @classmethod
    def unprivileged(cls) -> Self:
        """Return the own user, or a system user for root: PostgreSQL refuses to run as root."""
        if os.geteuid() != 0:
            return cls()
        for name in ("postgres", "nobody"):
            with contextlib.suppress(KeyError):
                entry = pwd.getpwnam(name)
                return cls(entry.pw_uid, entry.pw_gid)
        raise ServerError("PostgreSQL refuses to run as root and there is no user 'postgres'.")

    def own(self, folder: Path) -> None:
        if self.user is not None and self.group is not None:
            os.chown(folder, self.user, self.group)

    def popen_arguments(self) -> dict[str, Any]:
        if self.user is None:
            return {}
        return {"user": self.user, "group": self.group, "extra_groups": []}


_Launch = tuple[Callable[[], "subprocess.Popen[bytes]"], "Future[subprocess.Popen[bytes]]"]


@cache
def _launcher(_process_id: int) -> SimpleQueue[_Launch]:
    """Requests to the thread that starts children: one thread that lives as long as the process.

    The kernel sends the parent-death signal when the *thread* that forked ends, so a server
    resumed from a timer thread would otherwise die with the timer.
    """
    requests: SimpleQueue[_Launch] = SimpleQueue()
    threading.Thread(target=_launch_forever, args=(requests,), name="launcher", daemon=True).start()
    return requests


def _launch_forever(requests: SimpleQueue[_Launch]) -> None:
    while True:
        launch, child = requests.get()
        try:
            child.set_result(launch())
        except OSError as error:
            child.set_exception(error)


def _spawn(
    arguments: Sequence[str],
    *,
    folder: Path,
    environment: Mapping[str, str],
    owner: _Owner,
    death_signal: Literal["QUIT", "KILL"],
) -> subprocess.Popen[bytes]:
    """Start a child in a session of its own, with its output in the folder's ``output.log``.

    The session keeps a terminal's Ctrl-C away from the server: the tests stop it in order.
    """
    setpriv = shutil.which("setpriv")
    prefix = [setpriv, "--pdeathsig", death_signal] if setpriv else []

    def launch() -> subprocess.Popen[bytes]:
        with (folder / "output.log").open("ab") as output:
            return subprocess.Popen(
                [*prefix, *arguments],
                cwd=folder,
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                **owner.popen_arguments(),
            )

    child: Future[subprocess.Popen[bytes]] = Future()
    _launcher(os.getpid()).put((launch, child))
    return child.result()


def _base_environment(folder: Path) -> dict[str, str]:
    """Environment that inherits PATH alone: PG…, RABBITMQ_… and ERL_… settings of the caller stay out."""
    path = os.environ.get("PATH", os.defpath)
    return {"PATH": path, "HOME": str(folder), "LANG": "C.UTF-8", "TZ": "UTC"}


_taken_ports: set[int] = set()


def _free_port() -> int:
    """Return a free loopback port, each only once in one process.

    It lies below the ephemeral range: while a server is stopped, a client that keeps trying an
    ephemeral port can connect to itself and hold the port against the server's return.
    """
    while True:
        port = random.randint(12_000, 31_999)
        if port not in _taken_ports and _can_bind(port):
            _taken_ports.add(port)
            return port


def _can_bind(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def _children(process_id: int) -> Iterator[int]:
    for status in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = status.read_text().rpartition(")")[2].split()
            if int(fields[1]) == process_id:
                yield int(status.parent.name)


def _tail(log: Path) -> str:
    if not log.exists():
        return ""
    lines = log.read_text(errors="replace").splitlines()[-LOG_TAIL_LINES:]
    return "\n".join([f"--- {log.name}", *lines])


class PrivateServer(ABC):
    """Server process with a folder of its own; base of PostgreSQL and RabbitMQ.

    Also a context manager that closes it. Servers still open at the end of Python are closed.
    """

    name: ClassVar[str]
    _stop_signals: ClassVar[Mapping[StopMode, signal.Signals]]

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self._made_in = os.getpid()
        # A fault test stops a server from a timer while its fixture closes it.
        self._lock = threading.RLock()
        atexit.register(self._close_at_exit)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    @property
    def running(self) -> bool:
        """True while the server's process is alive (a paused one is)."""
        return self._process is not None and self._process.poll() is None

    @property
    def process_id(self) -> int:
        """The process id of the server; raises ServerError when it is stopped."""
        return self._alive().pid

    def stop(self, mode: StopMode = "fast") -> None:
        """Stop the server and keep its data; a stopped server stays stopped.

        ``fast`` disconnects clients and shuts down in order, ``immediate`` is a crash. Raises
        ServerError when it is still there after STOP_TIMEOUT_S seconds; it is killed then.
        """
        with self._lock:
            if self._process is not None:
                self.unpause()
                self._process.send_signal(self._stop_signals[mode])
            self._reap()

    def resume(self) -> None:
        """Start a stopped server again, with the same ports and data.

        Raises ServerError, with the end of its log, when it is not ready after START_TIMEOUT_S
        seconds, and at once when it exits or runs already.
        """
        with self._lock:
            if self.running:
                raise ServerError(f"{self.name} runs already: stop it before resuming it.")
            try:
                self._process = self._launch()
                self._wait_until_ready()
            except BaseException:
                self._kill()
                raise

    def restart(self, mode: StopMode = "fast") -> None:
        """Stop and resume."""
        self.stop(mode)
        self.resume()

    def pause(self) -> None:
        """Freeze the server and its children (SIGSTOP): connections stay open and hang."""
        process = self._alive()
        process.send_signal(signal.SIGSTOP)
        self._signal_children(process.pid, signal.SIGSTOP)

    def unpause(self) -> None:
        """Resume a frozen server (SIGCONT); harmless on any other."""
        if self._process is not None:
            self._signal_children(self._process.pid, signal.SIGCONT)
            self._process.send_signal(signal.SIGCONT)

    def close(self) -> None:
        """Stop the server for good and remove its folder; harmless when repeated."""
        atexit.unregister(self._close_at_exit)
        try:
            self.stop("immediate")
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)

    @abstractmethod
    def _launch(self) -> subprocess.Popen[bytes]:
        """Start the process on the data in the folder."""

    @abstractmethod
    def _answers(self) -> bool:
        """Return True if a real client gets an answer."""

    @abstractmethod
    def _logs(self) -> Sequence[Path]:
        """Files whose ends explain a failed start."""

    def _close_at_exit(self) -> None:
        # A forked child inherits the registration, but not the server.
        if os.getpid() == self._made_in:
            self.close()

    def _alive(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._process.poll() is not None:
            raise ServerError(f"{self.name} is not running.")
        return self._process

    def _reap(self) -> None:
        if self._process is None:
            return
        try:
            self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            raise self._failure(f"did not stop within {STOP_TIMEOUT_S:.0f} s") from None
        finally:
            self._kill()

    def _kill(self) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self._process = None

    def _signal_children(self, process_id: int, number: signal.Signals) -> None:
        for child in _children(process_id):
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, number)

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        while not self._answers():
            if not self.running:
                raise self._failure("exited while starting")
            if time.monotonic() > deadline:
                raise self._failure(f"was not ready within {START_TIMEOUT_S:.0f} s")
            time.sleep(POLL_INTERVAL_S)

    def _failure(self, what: str) -> ServerError:
        tails = [_tail(log) for log in self._logs()]
        return ServerError("\n".join([f"{self.name} {what}.", *filter(None, tails)]))


_Server = TypeVar("_Server", bound=PrivateServer)


def _started(server: _Server, prepare: Callable[[], None]) -> _Server:
    try:
        prepare()
        server.resume()
    except BaseException:
        server.close()
        raise
    return server


# --- PostgreSQL ----------------------------------------------------------------------------------

_POSTGRES_SETTINGS = """
listen_addresses = '127.0.0.1'
unix_socket_directories = ''
max_connections = 100
fsync = on
synchronous_commit = on
full_page_writes = on
timezone = 'UTC'
log_timezone = 'UTC'
lc_messages = 'C'
shared_buffers = 128MB
max_wal_size = 1GB
"""


class Postgres(PrivateServer):
    """A private PostgreSQL server; the superuser logs in by password, on 127.0.0.1 only."""

    name = "PostgreSQL"
    _stop_signals: ClassVar[Mapping[StopMode, signal.Signals]] = {
        "fast": signal.SIGINT,
        "immediate": signal.SIGQUIT,
    }

    def __init__(self, folder: Path, binaries: Path, settings: Mapping[str, str]) -> None:
        super().__init__(folder)
        self._binaries, self._settings = binaries, settings
        self._owner = _Owner.unprivileged()
        self.address = PostgresAddress("127.0.0.1", _free_port(), "billing", secrets.token_urlsafe(12))
        self.databases = Databases(self.address)

    @classmethod
    def start(cls, folder: Path | None = None, settings: Mapping[str, str] | None = None) -> Self:
        """A new server with an empty ``postgres`` database; ``settings`` stand above its own.

        Its own folder is made inside ``folder`` (default: the system's temporary folder), which
        must be open to the ``postgres`` user where the tests run as root. Raises ServerError
        when PostgreSQL is not installed or does not come up.
        """
        binaries = postgres_binaries()
        if binaries is None:
            raise ServerError("PostgreSQL is not installed: run python -m tests.support.provision")
        server = cls(Path(tempfile.mkdtemp(prefix="billing-postgres-", dir=folder)), binaries, settings or {})
        return _started(server, server._initialize)

    @property
    def _data(self) -> Path:
        return self.folder / "data"

    def _initialize(self) -> None:
        self._owner.own(self.folder)
        password = self.folder / "password"
        password.write_text(self.address.password)
        self._owner.own(password)
        initdb = [str(self._binaries / "initdb"), "--pgdata", str(self._data)]
        initdb += ["--username", self.address.user, "--pwfile", str(password)]
        initdb += ["--auth", "scram-sha-256", "--encoding", "UTF8", "--locale", "C"]
        # The new cluster is not flushed to disk here: no commit has been confirmed yet.
        initdb += ["--no-sync", "--no-instructions"]
        if self._child(initdb).wait(START_TIMEOUT_S) != 0:
            raise self._failure("could not make a database cluster")
        with (self._data / "postgresql.conf").open("a") as settings:
            settings.write(f"{_POSTGRES_SETTINGS}port = {self.address.port}\n")
            settings.writelines(f"{name} = '{value}'\n" for name, value in self._settings.items())

    def _launch(self) -> subprocess.Popen[bytes]:
        return self._child([str(self._binaries / "postgres"), "-D", str(self._data)])

    def _child(self, arguments: Sequence[str]) -> subprocess.Popen[bytes]:
        # SIGQUIT: killed outright, the server would leave its children and shared memory behind.
        return _spawn(
            arguments,
            folder=self.folder,
            environment=_base_environment(self.folder),
            owner=self._owner,
            death_signal="QUIT",
        )

    def _answers(self) -> bool:
        try:
            self.databases.ping()
        except OperationalError:
            return False
        return True

    def _logs(self) -> Sequence[Path]:
        return [self.folder / "output.log"]


# --- RabbitMQ ------------------------------------------------------------------------------------

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

    def __init__(self, folder: Path, script: Path, consumer_timeout_s: int | None) -> None:
        super().__init__(folder)
        self._script, self._consumer_timeout_s = script, consumer_timeout_s
        self._epmd: subprocess.Popen[bytes] | None = None
        self._distribution_port = _free_port()
        self._epmd_port = _free_port()
        self._management_port = _free_port()
        self.address = RabbitMQAddress(
            host="127.0.0.1",
            port=_free_port(),
            management_url=f"http://127.0.0.1:{self._management_port}",
            user="billing",
            password=secrets.token_hex(12),
        )
        self.management = ManagementClient(self.address)

    @classmethod
    def start(cls, folder: Path | None = None, *, consumer_timeout_s: int | None = None) -> Self:
        """A new, empty broker, with management on.

        Its own folder is made inside ``folder`` (default: the system's temporary folder). A consumer that
        holds a delivery longer than ``consumer_timeout_s`` (default: 1,800) loses its channel within a
        second. Raises ServerError when RabbitMQ is not installed or does not come up.
        """
        script = rabbitmq_binary()
        if script is None:
            raise ServerError("RabbitMQ is not installed: run python -m tests.support.provision")
        own = Path(tempfile.mkdtemp(prefix="billing-rabbitmq-", dir=folder))
        server = cls(own, script, consumer_timeout_s)
        return _started(server, server._configure)

    def _configure(self) -> None:
        settings = _RABBITMQ_SETTINGS.format(
            port=self.address.port,
            management_port=self._management_port,
            user=self.address.user,
            password=self.address.password,
        )
        if self._consumer_timeout_s is not None:
            settings += f"consumer_timeout = {self._consumer_timeout_s * 1000}\n"
        (self.folder / "rabbitmq.conf").write_text(settings)
        (self.folder / "advanced.config").write_text("[].\n")
        (self.folder / "environment.conf").write_text("")
        (self.folder / "enabled_plugins").write_text("[rabbitmq_management].\n")

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
        return _spawn(
            arguments,
            folder=self.folder,
            environment=self._environment(),
            owner=_Owner(),
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
            **_base_environment(self.folder),
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
            _connect(self.address.url()).close()
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
