"""Meaning of the database driver's errors: wait, try again, take a new session, or stop.

Nothing else reads SQLSTATEs. Texts are read only where the code says too little: they may be in the language
of the server.
"""

import re
import sqlite3

from sqlalchemy.exc import DatabaseError, DBAPIError, InterfaceError, OperationalError, ProgrammingError

from worker.errors import (
    BillingError,
    ConfigurationError,
    ContentionError,
    LedgerUnavailableError,
    SchemaChangedError,
    UnsupportedStatementError,
)

_CONTENTION = {"40001", "40P01", "55P03"}  # serialization failure, deadlock, lock time-out
_UNIQUE_VIOLATION = "23505"
_QUERY_CANCELED = "57014"
_OBJECT_IN_USE = "55006"
_NOT_PERMITTED = "42501"
# A write of a batch that has not written all of its rows, see ``row_sql.checked_sql``.
_DIVISION_BY_ZERO = "22012"
# A prepared statement that isn't there, or is there already; a row whose columns were others when the session
# looked.
_STALE = {"26000", "42P05", "22P02"}
# A read-only server, such as a demoted primary: another connection may find the primary.
_READ_ONLY = "25006"
_NOT_SUPPORTED = "0A000"
_INTERNAL = "XX000"
# Connection, resources, shutdown, system and internal errors: whole classes.
_UNAVAILABLE = ("08", "53", "57", "58", "XX", _READ_ONLY)
# No such database; not permitted: a deployment to mend, not a message to refuse.
_MISCONFIGURED = (_NOT_PERMITTED, "3D000", "28")
# No such table, column, operator or schema; a column of another type, or one that nobody may write. A session
# that remembers the columns from before a migration meets them with its next new statement.
_OF_SCHEMA = {"42P01", "42703", "42883", "42804", "42846", "428C9", "3F000"}


def is_of_session(error: BaseException) -> bool:
    """Return True where the session is of no use any more, and a new one may be."""
    code = _code_of(error)
    return code in {*_STALE, *_OF_SCHEMA, _READ_ONLY} or (
        code == _NOT_SUPPORTED and _is_changed_result(error)
    )


def was_canceled(error: DBAPIError) -> bool:
    """Return True where the server gave a statement up, as a rule for its time."""
    return _code_of(error.orig) == _QUERY_CANCELED


def is_in_use(error: DBAPIError) -> bool:
    """Return True where the rows are in use, as a function of ours says."""
    return _code_of(error.orig) == _OBJECT_IN_USE


def is_not_permitted(error: DBAPIError) -> bool:
    """Return True where the login lacks the right."""
    return _code_of(error.orig) == _NOT_PERMITTED


def _code_of(error: BaseException | None) -> str | None:
    return getattr(error, "pgcode", None)


def meaning_of(error: DBAPIError) -> BillingError | None:
    """Return the error that says what to do; None where only the message that met it can be at fault."""
    code = _code_of(error.orig) or ""
    text = str(error.orig).strip().partition("\n")[0]
    if code in _CONTENTION or (code == _UNIQUE_VIOLATION and _is_written_operation(error)):
        return ContentionError(f"another transaction was in the way: {text}")
    if code == _DIVISION_BY_ZERO and _name_of(error.statement).startswith("write_"):
        return ContentionError("rows of this batch changed although they were locked")
    if _is_unsupported(error, code):
        return UnsupportedStatementError(
            f"the database does not support the statement {_name_of(error.statement)!r}: {text}; "
            "connect to a PostgreSQL that does"
        )
    if code in _OF_SCHEMA:
        return SchemaChangedError(f"the schema is not as it must be, see `billing-worker check`: {text}")
    if code in _STALE or (code == _NOT_SUPPORTED and error.connection_invalidated):
        # The text of the server may hold rows, and this one ends in the log.
        return SchemaChangedError(f"the session is older than the schema ({code}), and a new one follows")
    if code.startswith(_MISCONFIGURED):
        return LedgerUnavailableError(f"the schema is not as it must be, see `billing-worker check`: {text}")
    if code.startswith(_UNAVAILABLE) or error.connection_invalidated:
        return LedgerUnavailableError(f"the ledger's database is not available: {text}")
    if isinstance(error, ProgrammingError) and not code and error.orig is not None and "dsn" in text:
        return ConfigurationError(f"the database URL can't be used: {text}")
    if not code and isinstance(error, OperationalError) and _OF_CERTIFICATES.search(text):
        return ConfigurationError(f"the database's certificates can't be used: {text}")
    if type(error.orig) in {sqlite3.OperationalError, sqlite3.DatabaseError}:  # locked, full, not a database
        return LedgerUnavailableError(f"the ledger's database is not available: {text}")
    if not code and (isinstance(error, OperationalError | InterfaceError) or type(error) is DatabaseError):
        return LedgerUnavailableError(f"the ledger's database is not available: {text}")
    return None


# What libpq says of files on this side; what it says of the server's certificate is an outage of that server.
_OF_CERTIFICATES = re.compile(
    "(root certificate|certificate|private key|certificate revocation list) file|weak sslmode"
    "|certificate present, but not private key"
)


# -- another worker was faster ----------------------------------------------------------------------------


def _is_written_operation(error: DBAPIError) -> bool:
    """Return True where another worker has written the same operation, or the name of the same payment."""
    # Of a partition the server names the partition. Citus gives the text alone, with the name of the key.
    table = getattr(getattr(error.orig, "diag", None), "table_name", None) or ""
    key = _UNIQUE_KEY.search(str(error.orig))
    return table.startswith(_OPERATIONS) or (key is not None and key[1].startswith(_OPERATIONS))


_OPERATIONS = ("operations", "superseded_outcomes", "payment_names", "waiting_events")
_UNIQUE_KEY = re.compile(r'"(?:uq|pk)_(\w+)"')


# -- not supported ----------------------------------------------------------------------------------------


def _is_unsupported(error: DBAPIError, code: str) -> bool:
    if code == _NOT_SUPPORTED:
        return error.orig is not None and not _is_changed_result(error.orig)
    return code == _INTERNAL and _REFUSED.search(str(error.orig)) is not None


# Citus refuses some statements with the code of an internal error, and has no other language.
_REFUSED = re.compile("not supported|unsupported|not allowed on this node", re.IGNORECASE)


def _is_changed_result(error: BaseException) -> bool:
    """Return True where a migration has changed the columns of a prepared statement."""
    source: str | None = getattr(getattr(error, "diag", None), "source_function", None)
    return source == "RevalidateCachedQuery" or "cached plan must not change result type" in str(error)


def _name_of(statement: str | None) -> str:
    """Return the name of a prepared statement, or the first words of another one."""
    if (prepared := _PREPARED.match(statement or "")) is not None:
        return prepared[1]
    return " ".join((statement or "COMMIT").split()[:_WORDS])


_PREPARED = re.compile(r"(?:PREPARE|EXECUTE) (\w+)_\d+\b")
_WORDS = 12
