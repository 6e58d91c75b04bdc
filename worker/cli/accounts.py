"""``accounts``: accounts in the order of an amount, in debt or below zero, or by the beginning of a user."""

from typing import Any

import click

from worker.bootstrap import Application
from worker.cli.application import with_application
from worker.cli.csv_cells import csv_line
from worker.cli.options import as_json, cursor_option, limit_option, require_one_form, show_next, with_wide
from worker.cli.output import show_json, show_table
from worker.cli.table_width import Column
from worker.cli.times import moment, stamp
from worker.ledger.queries import snapshot
from worker.ledger.queries.account_list import (
    SORTS,
    AccountFilter,
    AccountSort,
    ListedAccounts,
    listed_accounts,
)
from worker.ledger.queries.search import AccountLine, accounts_by_prefix


@click.command("accounts")
@click.argument("prefix", default="")
@click.option("--in-debt", is_flag=True, help="Only those that owe tokens.")
@click.option("--negative", is_flag=True, help="Only those with a balance below zero.")
@click.option(
    "--sort",
    type=click.Choice(SORTS),
    help="Order by an amount; by the user where none of these options is given.",
)
@click.option("--csv", "as_csv", is_flag=True, help="Print the page as CSV, for spreadsheets.")
@limit_option(50, "Accounts")
@cursor_option()
@with_wide
@with_application("database_url")
@as_json
def accounts(
    application: Application,
    *,
    prefix: str,
    in_debt: bool,
    negative: bool,
    sort: AccountSort | None,
    as_csv: bool,
    limit: int,
    cursor: str | None,
    as_json: bool,
) -> None:
    """List accounts whose user begins with PREFIX (all without it), in an order that you choose.

    Amounts are as posted, without what is due since. Those in debt have an index; the other orders read all
    accounts, and are given up after 15 s. What users did is found by `operations`.

    \b
    Examples:
      billing-worker accounts --in-debt
      billing-worker accounts --sort most_used --limit 10
      billing-worker accounts team-7/ --negative --csv
    """
    require_one_form(as_csv=as_csv, as_json=as_json)
    application.require_readable_schema()
    found = _found(application, AccountFilter(prefix, in_debt, negative), sort, limit, cursor)
    if as_json:
        show_json({"accounts": [account.to_dict() for account in found.accounts], "next": found.next_cursor})
        return
    if as_csv:
        for line in (_CSV, *map(_cells, found.accounts)):
            click.echo(csv_line(line), nl=False)
    else:
        show_table("Accounts", _COLUMNS, map(_row, found.accounts))
    show_next(found.next_cursor)


def _found(
    application: Application, wanted: AccountFilter, sort: AccountSort | None, limit: int, cursor: str | None
) -> ListedAccounts:
    with snapshot(application.engine) as connection:
        if sort is None and wanted == AccountFilter(wanted.prefix):
            page = accounts_by_prefix(connection, wanted.prefix, cursor, limit)
            return ListedAccounts(page.accounts, page.next_after)
        return listed_accounts(connection, wanted, sort or "most_debt", limit, cursor)


_COLUMNS = (
    "user",
    Column("tier", 2),
    "balance",
    Column("held", 3),
    "debt",
    Column("used", 1),
    Column("changed", 4),
)
_CSV = ("user", "tier", "balance", "held", "debt", "used", "changed_at")


def _row(account: AccountLine) -> tuple[Any, ...]:
    changed = moment(account.updated_at)
    return (account.user_id, account.tier, account.balance, account.held, account.debt, account.used, changed)


def _cells(account: AccountLine) -> tuple[Any, ...]:
    return (*_row(account)[:-1], stamp(account.updated_at))
