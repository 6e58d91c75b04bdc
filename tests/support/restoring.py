"""PostgreSQL with a base backup and an archive of its log, and its restore to a named moment."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from sqlalchemy import NullPool, create_engine

from tests.support.postgres_server import WITHOUT_FLUSH, Postgres, postgres_binaries
from tests.support.private_server import START_TIMEOUT_S, ServerOwner, memory_folder, started
from tests.support.waiting import eventually


class RestoredPostgres(Postgres):
    """Server on a copy of a base backup, brought to a named moment by the archive; other port, same login."""

    name = "restored PostgreSQL"
    _backed_up: "BackedUpPostgres"
    _moment: str

    @classmethod
    def of(cls, backed_up: "BackedUpPostgres", moment: str) -> Self:
        """Restore to ``moment``; return when the server takes writes. Raises ServerError."""
        binaries = postgres_binaries()
        assert binaries is not None
        folder = Path(tempfile.mkdtemp(prefix="billing-restored-", dir=memory_folder()))
        server = cls(folder, binaries, {})
        server._backed_up, server._moment = backed_up, moment
        server.address = replace(backed_up.server.address, port=server.address.port)
        server.databases = type(server.databases)(server.address)
        started(server, server._unpack)
        eventually(lambda: not _asked(server, "SELECT pg_is_in_recovery()"), what="the end of the restore")
        return server

    def _unpack(self) -> None:
        self._owner.own(self.folder)
        copied = self._child(["cp", "-a", str(self._backed_up.backup), str(self._data)])
        assert copied.wait(START_TIMEOUT_S) == 0
        (self._data / "recovery.signal").touch()
        with (self._data / "postgresql.conf").open("a") as settings:
            settings.write(
                f"port = {self.address.port}\n"
                "archive_mode = off\n"
                f"restore_command = 'cp {self._backed_up.archive}/%f %p'\n"
                f"recovery_target_name = '{self._moment}'\n"
                "recovery_target_action = 'promote'\n"
            )


@dataclass(frozen=True)
class BackedUpPostgres:
    """A server whose log is archived, and folders for its base backup and its archive."""

    server: Postgres
    backup: Path
    archive: Path

    @classmethod
    @contextmanager
    def started(cls) -> Iterator[Self]:
        """Start the server; stop it and remove all folders at the end of the block."""
        folder = Path(tempfile.mkdtemp(prefix="billing-backup-", dir=memory_folder()))
        archive = folder / "archive"
        archive.mkdir()
        folder.chmod(0o755)
        owner = ServerOwner.unprivileged()
        for each in (folder, archive):
            owner.own(each)
        settings = {**WITHOUT_FLUSH, "archive_mode": "on", "archive_command": f"cp %p {archive}/%f"}
        try:
            with Postgres.start(memory_folder(), settings) as server:
                yield cls(server, folder / "backup", archive)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def back_up(self) -> None:
        """Make the base backup."""
        address = self.server.address
        source = f"host={address.host} port={address.port} user={address.user} password={address.password}"
        command = [str(self.server._binaries / "pg_basebackup"), "-D", str(self.backup), "-d", source]
        command += ["-X", "none", "--checkpoint=fast", "--no-sync"]
        assert self.server._child(command).wait(START_TIMEOUT_S) == 0

    def mark(self, moment: str) -> None:
        """Give the present moment a name to which the server can be restored."""
        _asked(self.server, f"SELECT pg_create_restore_point('{moment}')::text")

    def restored(self, moment: str) -> RestoredPostgres:
        """Return a new server at ``moment``; this one stays as it is."""
        segment = _asked(self.server, "SELECT pg_walfile_name(pg_current_wal_lsn())")
        _asked(self.server, "SELECT pg_switch_wal()::text")
        eventually((self.archive / str(segment)).exists, what="the log in the archive")
        return RestoredPostgres.of(self, moment)


def _asked(server: Postgres, statement: str) -> object:
    """Return the first column of the first row."""
    engine = create_engine(server.address.url("postgres"), poolclass=NullPool, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        return connection.exec_driver_sql(statement).scalar()
