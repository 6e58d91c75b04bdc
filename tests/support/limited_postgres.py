"""PostgreSQL servers that are limited: a standby, a read-only one, one with a full disk."""

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Self

from sqlalchemy import NullPool, create_engine

from tests.support.postgres_server import Postgres, PostgresAddress, postgres_binaries
from tests.support.private_server import START_TIMEOUT_S, ServerError, ServerOwner, started
from tests.support.waiting import eventually

_BALLAST = "ballast"


class Standby(Postgres):
    """Hot standby that streams from a private server, asynchronously; same login, other port."""

    name = "PostgreSQL standby"
    primary: Postgres
    _disks: "tuple[SmallDisk, SmallDisk] | None"

    @classmethod
    def of(cls, primary: Postgres, disks: "tuple[SmallDisk, SmallDisk] | None" = None) -> Self:
        """Start a standby of ``primary``, with its present data. Raises ServerError as ``start`` does.

        ``disks`` are the small disk of the primary and the one that the standby has instead.
        """
        binaries = postgres_binaries()
        assert binaries is not None
        server = cls(Path(tempfile.mkdtemp(prefix="billing-standby-")), binaries, {})
        server.primary, server._disks = primary, disks
        server.address = replace(primary.address, port=server.address.port)
        server.databases = type(server.databases)(server.address)
        return started(server, server._copy)

    def catch_up(self) -> None:
        """Wait until the standby has replayed the writes of the primary so far."""
        written = _asked(self.primary.address, "SELECT pg_current_wal_insert_lsn()::text")
        # A record behind that place: an idle primary may stand at the head of a page that nothing fills.
        _asked(self.primary.address, "SELECT pg_logical_emit_message(true, 'billing', 'catch up')")
        replayed = f"SELECT pg_last_wal_replay_lsn() >= '{written}'::pg_lsn"
        eventually(lambda: _asked(self.address, replayed), what="the standby has replayed it")

    def pause_replay(self) -> None:
        """Keep the standby at its present state; it receives writes all the same."""
        _asked(self.address, "SELECT pg_wal_replay_pause()")

    def resume_replay(self) -> None:
        """Let the standby go on."""
        _asked(self.address, "SELECT pg_wal_replay_resume()")

    def bind(self) -> None:
        """Make each commit of the primary wait for the standby."""
        _asked(self.primary.address, "ALTER SYSTEM SET synchronous_standby_names = '*'")
        _reload(self.primary)

    def release(self) -> None:
        """Let the primary commit alone again."""
        _asked(self.primary.address, "ALTER SYSTEM RESET synchronous_standby_names")
        _reload(self.primary)

    def promote(self) -> None:
        """Make the standby a primary; return when it takes writes."""
        _asked(self.address, "SELECT pg_promote(true, 60)")
        eventually(lambda: not _asked(self.address, "SELECT pg_is_in_recovery()"), what="the promotion")

    def _copy(self) -> None:
        self._owner.own(self.folder)
        address = self.primary.address
        source = f"host={address.host} port={address.port} user={address.user} password={address.password}"
        command = [str(self._binaries / "pg_basebackup"), "-D", str(self._data), "-d", source]
        command += ["-R", "-X", "stream", "--checkpoint=fast", "--no-sync"]
        if self._disks is not None:
            command += ["-T", "=".join(str(disk.room) for disk in self._disks)]
        if self._child(command).wait(START_TIMEOUT_S) != 0:
            raise self._failure("could not copy the primary")
        with (self._data / "postgresql.conf").open("a") as settings:
            settings.write(f"port = {self.address.port}\n")


def url_of_both(first: PostgresAddress, second: PostgresAddress, database: str) -> str:
    """Return a URL with two servers; libpq uses the first that accepts connections."""
    login = first.url(database).partition("://")[2].partition("@")[0]
    hosts = f"host={first.host}:{first.port}&host={second.host}:{second.port}"
    return f"postgresql+psycopg2://{login}@/{database}?{hosts}"


@contextmanager
def read_only(server: Postgres) -> Iterator[None]:
    """Make transactions of ``server`` read-only by default during the block."""
    _asked(server.address, "ALTER SYSTEM SET default_transaction_read_only = on")
    _reload(server)
    try:
        yield
    finally:
        _asked(server.address, "ALTER SYSTEM RESET default_transaction_read_only")
        _reload(server)


def _reload(server: Postgres) -> None:
    _asked(server.address, "SELECT pg_reload_conf()")


def _asked(address: PostgresAddress, statement: str) -> object:
    """Return the first column of the first row; None without rows."""
    engine = create_engine(address.url("postgres"), poolclass=NullPool, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        result = connection.exec_driver_sql(statement)
        return result.scalar() if result.returns_rows else None


class SmallDisk:
    """File system in memory with a tablespace of one server; root may mount it.

    Only what is in the tablespace meets a full disk: the server and its log of changes stay well.
    """

    tablespace = "small"

    def __init__(self, megabytes: int) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="billing-disk-"))
        self._mount(megabytes)
        self._folder.chmod(0o755)
        self.room = self._folder / "tablespace"
        self.room.mkdir()
        ServerOwner.unprivileged().own(self.room)

    def serve(self, server: Postgres) -> None:
        """Make the file system a tablespace of ``server``."""
        _asked(server.address, f"CREATE TABLESPACE {self.tablespace} LOCATION '{self.room}'")

    def fill(self) -> None:
        """Fill the file system."""
        with suppress(OSError), (self._folder / _BALLAST).open("ab", buffering=0) as ballast:
            while ballast.write(bytes(1 << 20)) == 1 << 20:
                pass
            while ballast.write(bytes(4096)):
                pass

    def free(self) -> None:
        """Free the space; harmless where it was not filled."""
        (self._folder / _BALLAST).unlink(missing_ok=True)

    def close(self) -> None:
        """Unmount the file system; the server must be stopped."""
        subprocess.run(["umount", "--lazy", str(self._folder)], capture_output=True)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _mount(self, megabytes: int) -> None:
        command = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(self._folder)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            raise ServerError(f"A small disk needs root and a kernel that lets it mount: {done.stderr}")


def create_small(server: Postgres, name: str) -> None:
    """Create a database on the small disk of ``server``."""
    _asked(server.address, f'CREATE DATABASE "{name}" TABLESPACE {SmallDisk.tablespace}')
