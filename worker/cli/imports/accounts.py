"""Commands of an import, made from the rows of its files and checked as a worker checks them."""

import json
import re
import sqlite3
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, cast

from pydantic.alias_generators import to_camel, to_snake

from schemas import ImportAccount, Limits, Malformed
from worker.cli.imports.csv_files import Columns, CsvFile, FileProblem, Row
from worker.messages.known_ids import KnownIds, decoded

TOTALS = ("allocated", "purchased", "bonus", "refunded", "adjusted", "used", "expired", "reversed")
_AMOUNTS = frozenset({*TOTALS, "balance", "tokens", "granted", "priority", "amount_minor", "bonus_tokens"})
#: Part of a message that a refusal names: which list, which of its items, which field.
_PLACE = re.compile(r"(lots|payments|quotas)\.(\d+)(?:\.(\w+))?")
_INTEGER = re.compile(r"-?\d{1,19}", re.ASCII)

ACCOUNTS = Columns(
    frozenset({"user_id", "tier", "opened_at", "balance"}),
    ("user_id", "tier", "opened_at", "anchor", "balance", *TOTALS),
)
LOTS = Columns(
    frozenset({"user_id", "source", "tokens"}),
    ("user_id", "source", "tokens", "granted", "expires_at", "priority", "payment_reference_id"),
)
PAYMENTS = Columns(
    frozenset({"user_id", "reference_id", "amount_minor", "currency", "package_id", "tokens", "paid_at"}),
    (
        "user_id",
        "reference_id",
        "amount_minor",
        "currency",
        "package_id",
        "tokens",
        "bonus_tokens",
        "paid_at",
        "provider",
    ),
)
QUOTAS = Columns(frozenset({"user_id", "meter", "used"}), ("user_id", "meter", "used"))
_PARTS = {"lots": LOTS, "payments": PAYMENTS, "quotas": QUOTAS}


@dataclass(frozen=True, slots=True)
class Form:
    """Everything of the commands that no file says."""

    as_of: datetime
    prefix: str
    attempt: int
    limits: Limits
    known_ids: KnownIds
    now: datetime


@dataclass(frozen=True, slots=True)
class Prepared:
    """Command of an account and the line of its row, or the fault that keeps it from being one."""

    line: int
    command: ImportAccount | None = None
    problem: FileProblem | None = None


class ImportFiles:
    """Files of an import, read once into a temporary database that brings each user's rows together."""

    def __init__(self, accounts: Path, parts: Mapping[str, Path | None], form: Form) -> None:
        self._form = form
        self._accounts = CsvFile(accounts, ACCOUNTS)
        self._parts = {
            name: CsvFile(path, columns)
            for name, columns in _PARTS.items()
            if (path := parts.get(name)) is not None
        }
        self._rows = sqlite3.connect("")  # on the disk, and gone with the process
        self._rows.executescript(_SCHEMA)

    def close(self) -> None:
        """Forget the rows."""
        self._rows.close()

    @property
    def count(self) -> int:
        """Return the number of accounts."""
        return cast(int, self._rows.execute("SELECT count(*) FROM accounts").fetchone()[0])

    # -- reading ------------------------------------------------------------------------------------------

    def read(self) -> Iterator[FileProblem]:
        """Read all files; yield the faults of their rows."""
        for row in self._accounts.rows():
            if isinstance(row, FileProblem):
                yield row
            elif not self._kept("accounts", "INSERT OR IGNORE INTO accounts VALUES (?, ?, ?)", row):
                yield self._accounts.problem(row.line, "user_id", _twice(row.fields["user_id"]))
        for name, file in self._parts.items():
            for row in file.rows():
                if isinstance(row, FileProblem):
                    yield row
                elif name == "payments" and not self._is_new_payment(row):
                    yield file.problem(row.line, "reference_id", _twice(row.fields["reference_id"]))
                else:
                    self._kept(name, "INSERT INTO parts VALUES (?, ?, ?, ?)", row)
        self._rows.commit()
        yield from self._strays()

    def _kept(self, name: str, insert: str, row: Row) -> bool:
        values = (row.fields["user_id"], row.line, json.dumps(row.fields))
        parameters = values if name == "accounts" else (name, *values)
        return self._rows.execute(insert, parameters).rowcount == 1

    def _is_new_payment(self, row: Row) -> bool:
        insert = "INSERT OR IGNORE INTO payments VALUES (?)"
        return self._rows.execute(insert, (row.fields["reference_id"],)).rowcount == 1

    def _strays(self) -> Iterator[FileProblem]:
        """Yield a fault for each row of a user who has no account."""
        found = self._rows.execute(
            "SELECT part, line FROM parts WHERE user_id NOT IN (SELECT user_id FROM accounts)"
            " ORDER BY part, line"
        )
        for part, line in found:
            text = f"this user is not in {self._accounts.name}"
            yield self._parts[part].problem(line, "user_id", text)

    # -- commands -----------------------------------------------------------------------------------------

    def commands(self) -> Iterator[Prepared]:
        """Yield the command of each account, in the order of the file."""
        for user_id, line, fields in self._rows.execute(
            "SELECT user_id, line, fields FROM accounts ORDER BY line"
        ):
            yield self._prepared(user_id, line, json.loads(fields))

    def _prepared(self, user_id: str, line: int, fields: dict[str, str]) -> Prepared:
        parts: dict[str, list[tuple[int, dict[str, str]]]] = {name: [] for name in _PARTS}
        for part, number, values in self._rows.execute(
            "SELECT part, line, fields FROM parts WHERE user_id = ? ORDER BY line", (user_id,)
        ):
            parts[part].append((number, json.loads(values)))
        message, fault = self._message(user_id, fields, parts)
        if fault is not None:
            return Prepared(line, problem=self._accounts.problem(line, "balance", fault))
        body = json.dumps(message).encode()
        found = decoded(body, self._form.now, self._form.limits, self._form.known_ids)
        if isinstance(found, ImportAccount):
            return Prepared(line, found)
        refused = cast(Malformed, found)
        lines = {name: [number for number, _ in rows] for name, rows in parts.items()}
        return Prepared(line, problem=self._problem(line, refused, lines))

    def _message(
        self,
        user_id: str,
        fields: Mapping[str, str],
        parts: Mapping[str, list[tuple[int, dict[str, str]]]],
    ) -> tuple[dict[str, Any], str | None]:
        """Return the message of an account, and the fault of its balance."""
        values = {name: _value(name, value) for name, value in fields.items()}
        lists = {
            name: [
                {to_camel(field): _value(field, value) for field, value in row.items() if field != "user_id"}
                for _, row in rows
            ]
            for name, rows in parts.items()
        }
        balance = values["balance"]
        if not isinstance(balance, int):
            return {}, f"{balance!r} is no whole number; write it without fraction, exponent and separators"
        lots = lists["lots"]
        if not lots and balance > 0:
            lots.append({"source": "carried_over", "tokens": balance})
        left = sum(lot["tokens"] for lot in lots if isinstance(lot["tokens"], int))
        if balance >= 0 and left != balance and all(isinstance(lot["tokens"], int) for lot in lots):
            return {}, f"{balance}, but the lots come to {left}: the difference is {balance - left}"
        message = {
            "type": "account.import",
            "referenceId": f"{self._form.prefix}{user_id}",
            "userId": user_id,
            "attempt": self._form.attempt,
            "tier": values["tier"],
            "openedAt": values["opened_at"],
            "anchor": values.get("anchor", values["opened_at"]),
            "asOf": self._form.as_of.isoformat(),
            "debt": max(-balance, 0),
            **lists,
        }
        totals = {name: values[name] for name in TOTALS if name in values}
        return (message if not totals else {**message, "totals": totals}), None

    def _problem(self, line: int, refused: Malformed, lines: Mapping[str, list[int]]) -> FileProblem:
        """Return the fault of a message at the row and the column that it comes from."""
        text = refused.message
        place = _PLACE.match(refused.field or text)
        if place is not None and int(place[2]) < len(lines[place[1]]):
            column = None if place[3] is None else to_snake(place[3])
            return self._parts[place[1]].problem(lines[place[1]][int(place[2])], column, text)
        field = (refused.field or "").removeprefix("totals.")
        column = "user_id" if field == "referenceId" else to_snake(field) if field else None
        known = column in ACCOUNTS.known
        return self._accounts.problem(line, column if known else None, text)


_SCHEMA = """
CREATE TABLE accounts (user_id TEXT PRIMARY KEY, line INTEGER, fields TEXT);
CREATE TABLE parts (part TEXT, user_id TEXT, line INTEGER, fields TEXT);
CREATE TABLE payments (reference_id TEXT PRIMARY KEY);
CREATE INDEX parts_of_user ON parts (user_id, line);
CREATE INDEX accounts_in_order ON accounts (line);
"""


def _twice(name: str) -> str:
    return f"{name!r} is there twice"


def _value(column: str, text: str) -> str | int:
    """Return the value of a field: amounts are whole numbers, where they are written as such."""
    return int(text) if column in _AMOUNTS and _INTEGER.fullmatch(text) else text
