"""Operations by filters, of all users or of one; who spends most; and their export."""

from collections.abc import Iterator
from typing import Any

from flask import Blueprint, render_template, request
from flask.typing import ResponseReturnValue

from worker.cli.csv_cells import csv_line
from worker.cli.operation_csv import HEAD, operation_line
from worker.console.context import context
from worker.console.downloads import csv_download
from worker.console.heavy import heavy_when
from worker.console.parameters import moment_in, number_in, text_in
from worker.errors import QueryError
from worker.ledger.identifiers import IDENTIFIERS
from worker.ledger.queries import snapshot
from worker.ledger.queries.operation_filter import OperationFilter
from worker.ledger.queries.operation_totals import SpentBy, top_spenders
from worker.ledger.queries.operations import LIMIT_MAX, operation_page

page = Blueprint("operations", __name__)

_LINES, _SPENDERS = 50, 20
#: Operations of an export, and pages that it reads.
EXPORTED_MAX, _EXPORT_PAGES = 20_000, 50
_TOP: dict[str, SpentBy] = {"user": "user", "feature": "feature", "sender": "sender"}
#: Parameters of the filter; those that no index serves are heavy.
_QUICK = ("user", "status", "since", "until")
_NAMES = (*_QUICK, "type", "code", "sender", "feature", "metadata", "prefix", "least", "most")


def _reads_much() -> bool:
    return any(request.args.get(name) for name in ({*_NAMES} - {*_QUICK}) | {"format", "top"})


@page.get("/operations")
@heavy_when(_reads_much)
def index() -> ResponseReturnValue:
    """Show a page of the operations that a filter finds, or who spends most; or export them."""
    return _shown("operations.html", chosen_operations(text_in(request.args, "user")))


@page.get("/account/operations")
@heavy_when(_reads_much)
def of_account() -> ResponseReturnValue:
    """Show the operations of one account."""
    user = request.args.get("user", "")
    if not user or len(user) > 1_000:
        raise QueryError("name the user, as in /account/operations?user=ada")
    return _shown("account_operations.html", chosen_operations(user), user=user)


def _shown(template: str, wanted: OperationFilter, **more: Any) -> ResponseReturnValue:
    values = request.args
    if values.get("format") == "csv":
        return csv_download(_exported(wanted), "operations.csv")
    top, cursor = _top(), values.get("cursor") or None
    with snapshot(context().application.engine) as connection:
        spenders = None if top is None else top_spenders(connection, wanted, top, _SPENDERS)
        found = None if top is not None else operation_page(connection, wanted, _LINES, cursor)
    return render_template(
        template,
        page=found,
        spenders=spenders,
        filter=wanted,
        top=top,
        cursor=cursor,
        types=list(IDENTIFIERS["type"]),
        given={name: value for name in _NAMES if (value := text_in(values, name)) is not None},
        exported_max=EXPORTED_MAX,
        **more,
    )


def _exported(wanted: OperationFilter) -> Iterator[str]:
    """Yield the lines of an export, which says in its last line where it was cut."""
    yield HEAD
    cursor: str | None = None
    left = EXPORTED_MAX
    for _ in range(_EXPORT_PAGES):
        with snapshot(context().application.engine) as connection:
            found = operation_page(connection, wanted, min(LIMIT_MAX, left), cursor)
        yield from map(operation_line, found.operations)
        cursor, left = found.next_cursor, left - len(found.operations)
        if cursor is None:
            return
        if not left:
            break
    yield csv_line(["there are more: narrow the filter, or run `billing-worker operations --csv --all`"])


# -- filter -----------------------------------------------------------------------------------------------


def chosen_operations(user: str | None) -> OperationFilter:
    """Return the filter that the request's address names, of one user or of all. Raises QueryError."""
    values = request.args
    return OperationFilter(
        user_id=user,
        types=_several("type"),
        status=text_in(values, "status"),
        codes=_several("code"),
        sender=text_in(values, "sender"),
        feature=text_in(values, "feature"),
        metadata=_metadata(),
        reference_prefix=text_in(values, "prefix"),
        min_tokens=number_in(values, "least"),
        max_tokens=number_in(values, "most"),
        since=moment_in(values, "since"),
        until=moment_in(values, "until"),
    )


def _several(name: str) -> frozenset[str]:
    """Return the words of a parameter, between commas."""
    return frozenset(filter(None, (part.strip() for part in (text_in(request.args, name) or "").split(","))))


def _metadata() -> tuple[tuple[str, str], ...]:
    text = text_in(request.args, "metadata")
    if text is None:
        return ()
    name, sign, value = text.partition("=")
    if not name or not sign:
        raise QueryError(f"metadata must be key=value, such as job=17, not {text[:40]!r}", "metadata")
    return ((name, value),)


def _top() -> SpentBy | None:
    text = text_in(request.args, "top")
    if text is not None and text not in _TOP:
        raise QueryError(f"no such top: {text[:40]!r}; there are {', '.join(_TOP)}", "top")
    return None if text is None else _TOP[text]
