"""Database with the roles that `billing-worker migrate --roles` makes, each with a name of its own."""

from types import TracebackType
from typing import Self
from uuid import uuid4

from sqlalchemy import NullPool, create_engine, make_url

from tests.support.provision import PostgresServer
from worker.deadletters.store.tables import dead_letters
from worker.ledger.engine import ledger_engine
from worker.ledger.migrations import migrate
from worker.ledger.roles import RoleNames, RolesWanted, grant_rights, prepare_roles

PASSWORD = "correct-horse-battery"
TABLES = ("alembic_version", *dead_letters.metadata.tables)


class DatabaseRoles:
    """Database of its own, a copy of ``template``, with its roles; neither outlives the block."""

    def __init__(self, postgres: PostgresServer, template: str | None) -> None:
        self._postgres, self._template = postgres, template
        suffix = uuid4().hex[:8]
        self.name = f"roles_{suffix}"
        self.names = RoleNames(*(f"{kind}_{suffix}" for kind in ("owner", "worker", "reader", "privacy")))
        self.wanted = RolesWanted(self.names, TABLES, dict.fromkeys(self.names.logins, PASSWORD))
        self.engine = ledger_engine(postgres.address.url(self.name))

    def __enter__(self) -> Self:
        self._postgres.databases.create_database(self.name, self._template)
        return self

    def __exit__(
        self,
        _type: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        self.engine.dispose()
        self._postgres.databases.drop_database(self.name)
        drop_roles(self._postgres, self.names.owner, *self.names.logins, self.names.privacy)

    def make(self) -> Self:
        """Make the roles, as the server's superuser."""
        prepare_roles(self.engine, self.wanted)
        migrate(self.engine, owner=self.names.owner)
        grant_rights(self.engine, self.wanted)
        return self

    def url(self, role: str, password: str = PASSWORD) -> str:
        """Return the URL of a role, with its password."""
        url = make_url(self._postgres.address.url(self.name)).set(username=role, password=password)
        return url.render_as_string(hide_password=False)

    def run(self, *statements: str) -> None:
        """Run statements as the superuser."""
        with self.engine.begin() as connection:
            for statement in statements:
                connection.exec_driver_sql(statement)

    def attempt(self, role: str, statement: str) -> None:
        """Run a statement as a role. Raises DBAPIError."""
        engine = create_engine(self.url(role), poolclass=NullPool)
        with engine.begin() as connection:
            connection.exec_driver_sql(statement)


def drop_roles(postgres: PostgresServer, *roles: str) -> None:
    """Drop roles of the server; those that aren't there are no error."""
    engine = create_engine(postgres.address.url("postgres"), poolclass=NullPool)
    with engine.begin() as connection:
        for role in roles:
            connection.exec_driver_sql(f'DROP ROLE IF EXISTS "{role}"')
