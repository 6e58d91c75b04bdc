"""Private PgBouncer in front of a PostgreSQL server."""

import shutil
import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar, Literal, Self

import psycopg2

from tests.support.postgres_server import PostgresAddress
from tests.support.private_server import (
    PrivateServer,
    ServerError,
    ServerOwner,
    StopMode,
    base_environment,
    free_port,
    memory_folder,
    spawn,
    started,
)

PoolMode = Literal["session", "transaction", "statement"]

# No reset query: a session comes with all that its client before has left in it.
_SETTINGS = """
[databases]
* = host={host} port={server_port}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = md5
auth_file = {folder}/users
pool_mode = {mode}
default_pool_size = {size}
server_reset_query =
log_connections = 0
log_disconnections = 0
"""


def pgbouncer_binary() -> Path | None:
    """Return the program; Debian has it where only administrators look."""
    found = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin:/usr/local/sbin")
    return Path(found) if found else None


class PgBouncer(PrivateServer):
    """A pooler on a loopback port of its own, for the superuser of the server behind it."""

    name = "PgBouncer"
    _stop_signals: ClassVar[Mapping[StopMode, signal.Signals]] = {
        "fast": signal.SIGINT,
        "immediate": signal.SIGTERM,
    }

    def __init__(
        self, folder: Path, binary: Path, server: PostgresAddress, mode: PoolMode, size: int
    ) -> None:
        super().__init__(folder)
        self._binary, self._server, self._mode, self._size = binary, server, mode, size
        self._owner = ServerOwner.unprivileged()
        self.address = replace(server, host="127.0.0.1", port=free_port())

    @classmethod
    def start(cls, server: PostgresAddress, mode: PoolMode, size: int = 20) -> Self:
        """Start a pooler of ``size`` sessions a database. Raises ServerError where it is not installed."""
        binary = pgbouncer_binary()
        if binary is None:
            raise ServerError("PgBouncer is not installed: run python -m tests.support.provision")
        folder = Path(tempfile.mkdtemp(prefix="billing-pgbouncer-", dir=memory_folder()))
        pooler = cls(folder, binary, server, mode, size)
        return started(pooler, pooler._configure)

    def _configure(self) -> None:
        self._owner.own(self.folder)
        self._write(
            "pgbouncer.ini",
            _SETTINGS.format(
                host=self._server.host,
                server_port=self._server.port,
                port=self.address.port,
                folder=self.folder,
                mode=self._mode,
                size=self._size,
            ),
        )
        self._write("users", f'"{self._server.user}" "{self._server.password}"\n')

    def _write(self, name: str, text: str) -> None:
        path = self.folder / name
        path.write_text(text)
        self._owner.own(path)

    def _launch(self) -> subprocess.Popen[bytes]:
        return spawn(
            [str(self._binary), str(self.folder / "pgbouncer.ini")],
            folder=self.folder,
            environment=base_environment(self.folder),
            owner=self._owner,
            death_signal="KILL",
        )

    def _answers(self) -> bool:
        # Not SQLAlchemy, which begins a transaction: in statement mode there are none.
        address = self.address
        try:
            psycopg2.connect(
                host=address.host,
                port=address.port,
                user=address.user,
                password=address.password,
                dbname="postgres",
            ).close()
        except psycopg2.OperationalError:
            return False
        return True

    def _logs(self) -> Sequence[Path]:
        return [self.folder / "output.log"]
