"""Rights to execute the functions of the database that erase."""

from sqlalchemy import Connection, text

from worker.errors import ConfigurationError
from worker.ledger.roles import ERASING

_MAY = text("SELECT has_function_privilege(:function, 'EXECUTE')")


def require_right(connection: Connection, function: str) -> None:
    """Raise ConfigurationError where this login may not execute ``function``, one of ``ERASING``."""
    if connection.dialect.name != "postgresql":
        raise ConfigurationError(
            "only a ledger on PostgreSQL can be erased from: SQLite has no function that passes the guards"
        )
    if not connection.execute(_MAY, {"function": f"{function}({ERASING[function]})"}).scalar_one():
        raise ConfigurationError(
            "this login may not erase: connect as another one, to which `GRANT billing_privacy TO …` has "
            "given the role that `billing-worker migrate --roles` makes"
        )
