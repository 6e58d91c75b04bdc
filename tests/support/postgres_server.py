"""Private PostgreSQL server, its address and its databases."""

from __future__ import annotations

import secrets
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Self

from sqlalchemy import NullPool, create_engine
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import OperationalError

from tests.support.private_server import (
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


@dataclass(frozen=True)
class PostgresAddress:
    """Address of a PostgreSQL server, and the superuser to talk to it with."""

    host: str
    port: int
    user: str
    password: str

    @classmethod
    def parse(cls, url: str) -> Self:
        """Return the server part of an SQLAlchemy URL, without its database."""
        parts = make_url(url)
        return cls(
            host=parts.host or "127.0.0.1",
            port=5432 if parts.port is None else parts.port,
            user=parts.username or "postgres",
            password=str(parts.password or ""),
        )

    def url(self, database: str) -> str:
        """Return an SQLAlchemy URL (``postgresql+psycopg2://…``) with the password."""
        return URL.create(
            "postgresql+psycopg2",
            username=self.user,
            password=self.password,
            host=self.host,
            port=self.port,
            database=database,
        ).render_as_string(hide_password=False)


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

    def disconnect(self, name: str) -> None:
        """End all sessions of a database."""
        self._execute(
            f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'"  # noqa: S608
        )

    def ping(self) -> None:
        """Run one query; raises sqlalchemy.exc.OperationalError when the server does not answer."""
        self._execute("SELECT 1")

    def _quoted(self, name: str) -> str:
        return self._engine.dialect.identifier_preparer.quote_identifier(name)

    def _execute(self, statement: str) -> None:
        with self._engine.connect() as connection:
            connection.exec_driver_sql(statement)


def postgres_binaries() -> Path | None:
    """Return the folder with ``postgres`` and ``initdb``, preferably from PATH; None without one."""
    on_path = shutil.which("postgres")
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=major_version, reverse=True)
    folders = ([Path(on_path).resolve().parent] if on_path else []) + versions
    return next((folder for folder in folders if (folder / "initdb").exists()), None)


def major_version(binaries: Path) -> float:
    """Return the version of PostgreSQL by the name of its folder; 0 for another name."""
    version = binaries.parent.name
    return float(version) if version.replace(".", "", 1).isdigit() else 0.0


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


#: Settings of a server whose data may be lost with the machine, but not with its processes.
WITHOUT_FLUSH = {"fsync": "off", "full_page_writes": "off"}


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
        self._owner = ServerOwner.unprivileged()
        self.address = PostgresAddress("127.0.0.1", free_port(), "billing", secrets.token_urlsafe(12))
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
        return started(server, server._initialize)

    @property
    def _data(self) -> Path:
        return self.folder / "data"

    def _initialize(self) -> None:
        self._owner.own(self.folder)
        password = self.folder / "password"
        password.write_text(self.address.password)
        self._owner.own(password)
        initdb = [str(self._binaries / "initdb"), "--pgdata", str(self._data)]
        # SCRAM would cost each of the thousands of connections of a run two milliseconds.
        initdb += ["--username", self.address.user, "--pwfile", str(password)]
        initdb += ["--auth", "md5", "--encoding", "UTF8", "--locale", "C"]
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
        return spawn(
            arguments,
            folder=self.folder,
            environment=base_environment(self.folder),
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
