"""The store: one transaction loads what the ledger knows about a batch and writes what was decided.

The order keeps it free of lost updates and, where it can, of deadlocks. Names of payments are read first;
each has a version, and a write expects the one that was read. Accounts that may be missing are made, then all
accounts of the batch are locked, in order of their users; only then is anything else read, so that a worker
that had to wait sees what the other one wrote. Operations are inserted in the order of their references: the
unique key decides, and the transaction that loses there (ContentionError) begins again and finds the winner's
outcome.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime

from sqlalchemy import Connection, Engine

from schemas import Command, slot_of
from worker.catalog import Catalog
from worker.core.known import Known, PaymentName
from worker.core.needs import references_of
from worker.core.outcomes import Outcome
from worker.core.plan import Plan
from worker.core.superseded import ABOUT_PAYMENTS, Owner, owner_of
from worker.errors import ContentionError
from worker.ledger.bulk import RowWrite, write_all_and_commit
from worker.ledger.catalogs import catalog_id
from worker.ledger.compatibility import require_usable
from worker.ledger.engine import begun_beside, translated_errors
from worker.ledger.form import LedgerForm
from worker.ledger.ids import SHARED, Ids
from worker.ledger.known_ids import known_ids
from worker.ledger.loading import load
from worker.ledger.other_slots import OtherSlots
from worker.ledger.payment_names import (
    NamedPayments,
    bind_after_all,
    look_up,
    owners_of,
    tidy,
    with_owners,
    write_waiting,
    writes_of,
)
from worker.ledger.probing import WriteProbe
from worker.ledger.senders import Sender, sender_ids
from worker.ledger.writing import write

#: Times that names are bound behind a commit, while other workers change them.
_BINDINGS = 10
#: Commands of one transaction, each with its place among those that were given.
Share = list[tuple[int, Command]]


class Ledger:
    """Ledger behind one database. Cheap to make; connects when first used.

    Of a distributed ledger ``engine`` may be a node: ``coordinator`` has the tables beside the ledger then.
    """

    def __init__(
        self, engine: Engine, form: LedgerForm = LedgerForm.WHOLE, coordinator: Engine | None = None
    ) -> None:
        self._engine, self._form = engine, form
        self._beside = engine if coordinator is None else coordinator
        self._others = OtherSlots(engine, form.references, self._beside)
        self._claiming = self._others if form is LedgerForm.DISTRIBUTED else None
        self._probe = WriteProbe(engine, self._beside)

    def shares(self, commands: Sequence[Command]) -> list[Share]:
        """Return the commands as they go into transactions, with their places: all in one, or by slot.

        Raises LedgerUnavailableError: where a transaction has one slot, payments are asked for their users.
        """
        if not self._form.has_one_slot:
            return shares_of(commands, one_slot=False)
        return shares_of(self._with_owners(commands), one_slot=True)

    def _with_owners(self, commands: Sequence[Command]) -> Sequence[Command]:
        """Return the commands, those about payments with the payments' users where these are known.

        One whose reference is claimed, or stored, stays with the user it had then, be it none.
        """
        about = [command for command in commands if command.type in ABOUT_PAYMENTS]
        if not about:
            return commands
        references = {command.reference_id for command in about}
        with translated_errors(), self._beside.begin() as connection:
            claimed = self._form.references.owners(connection, references)
            owners = owners_of(connection, about)
        return with_owners(commands, owners, {name: owner.user_id for name, owner in claimed.items()})

    @contextmanager
    def begin(
        self, commands: Sequence[Command], now: datetime, *, auto_open: str | None = None
    ) -> Iterator["LedgerTransaction"]:
        """Begin one ledger transaction, and load what ``decide`` must know of ``commands`` into ``known``.

        ``auto_open`` is that of the catalog by which ``decide`` will judge them.

        The accounts are locked until it commits, at the end of the block; it rolls back when that raises.
        Raises ContentionError (try again), LedgerUnavailableError (wait, try again).
        """
        with translated_errors():
            slot = None
            others: Mapping[str, Outcome] = {}
            if self._form.has_one_slot:
                commands = self._with_owners(commands)
                slot = _slot_of_all(commands)
                self._probe.slot = slot
                others = self._others.judged(commands, slot, now)
            with self._connections() as (connection, beside):
                named = None
                if self._form is LedgerForm.DISTRIBUTED:
                    with connection.begin(), begun_beside(connection, beside):
                        named = look_up(connection, commands, auto_open, beside=beside)
                ids = Ids(beside, SHARED if slot is None else slot)
                ids.provide(_ids_of(commands))
                with connection.begin():
                    if named is None:
                        named = look_up(connection, commands, auto_open)
                    known = load(
                        connection,
                        commands,
                        now,
                        ids.take,
                        slot=slot,
                        others=others,
                        named=named,
                        beside=beside,
                    )
                    transaction = LedgerTransaction(
                        connection, known, now, ids, self._names(named, now), self._claiming, beside
                    )
                    yield transaction
                    transaction.write_last()
                transaction.finish()

    @contextmanager
    def _connections(self) -> Iterator[tuple[Connection, Connection]]:
        """Yield connections to the ledger and to the tables beside it: one and the same in one database."""
        with self._engine.connect() as connection:
            if self._beside is self._engine:
                yield connection, connection
                return
            with self._beside.connect() as beside:
                yield connection, beside

    def _names(self, named: NamedPayments, now: datetime) -> "WrittenNames":
        """Return what writes the names of payments: with the batch, or around it where it is distributed."""
        return WrittenNames(named.names, now, self._beside if self._form is LedgerForm.DISTRIBUTED else None)

    def known_ids(self, ids: Collection[str]) -> frozenset[str]:
        """Return those of ``ids`` that the ledger has. Raises LedgerUnavailableError."""
        return known_ids(self._beside, ids)

    def probe(self) -> None:
        """Raise LedgerUnavailableError unless the database takes writes; see ``WriteProbe``."""
        self._probe.require_writes()

    def require_usable(self) -> None:
        """Raise UnusableSchemaError where the schema isn't for this version of the worker."""
        require_usable(self._beside)

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()
        if self._beside is not self._engine:
            self._beside.dispose()


def _slot_of_all(commands: Sequence[Command]) -> int:
    """Return the slot of all commands. Raises ContentionError where a payment has just got its user."""
    slots = {slot_of(command.user_id) for command in commands}
    if len(slots) > 1:
        raise ContentionError("a payment of this batch has got its user meanwhile")
    return slots.pop()


def _ids_of(commands: Sequence[Command]) -> int:
    """Return the most ids that ``commands`` take: an account each, and their operations."""
    return len(commands) + sum(len(references_of(command)) for command in commands)


def shares_of(commands: Sequence[Command], *, one_slot: bool) -> list[Share]:
    """Return the commands, with their places, all in one share or by slot.

    In a share of one slot a reference is of one operation: a command that gives it to another begins the
    slot's next share.
    """
    if not one_slot:
        return [list(enumerate(commands))] if commands else []
    shares: list[Share] = []
    latest: dict[int, tuple[Share, dict[str, Owner]]] = {}
    for place, command in enumerate(commands):
        slot, owner = slot_of(command.user_id), owner_of(command)
        share, owners = latest.get(slot, (None, {}))
        references = references_of(command)
        if share is None or any(owners.get(reference, owner) != owner for reference in references):
            share, owners = latest[slot] = [], {}
            shares.append(share)
        share.append((place, command))
        owners.update(dict.fromkeys(references, owner))
    return shares


class LedgerTransaction:
    """Open database transaction over the ledger, and what is ``known`` of its commands."""

    def __init__(
        self,
        connection: Connection,
        known: Known,
        now: datetime,
        ids: Ids,
        names: "WrittenNames",
        others: OtherSlots | None,
        beside: Connection,
    ) -> None:
        self.known = known
        self._connection, self._now, self._ids, self._others = connection, now, ids, others
        self._names, self._beside = names, beside
        self._last: Sequence[RowWrite] = ()

    def sender_ids(self, senders: Sequence[Sender]) -> list[int | None]:
        """Return the key of each sender, None for one without names; add new ones."""
        with begun_beside(self._connection, self._beside) as beside:
            return sender_ids(beside, senders, self._now)

    def catalog_id(self, catalog: Catalog) -> int | None:
        """Return the key of a catalog; add a new one."""
        with begun_beside(self._connection, self._beside) as beside:
            return catalog_id(beside, catalog, self._now)

    def write(self, plan: Plan) -> None:
        """Write ``plan``, which was decided on ``known``; its outcomes have their transaction ids afterwards.

        The last statement may be sent with the COMMIT, at the end of the block. Raises ContentionError, here
        or there, where another worker has an operation of a reference, or moved an account, meanwhile.
        """
        if self._others is not None:
            self._others.take(plan, self._now)
        beside = self._names.begin(plan)
        self._last = write(self._connection, plan, self.known, self._now, self._ids.take, beside)
        self._names.end(self._connection, plan)

    def write_last(self) -> None:
        """Write what ``write`` has left for the end, and commit it in the same round trip."""
        if self._last:
            write_all_and_commit(self._connection, self._last)

    def finish(self) -> None:
        """Write what follows the commit."""
        self._names.finish()


class WrittenNames:
    """Writes of a batch to the names of payments and to what waits for them.

    On one database they are part of the batch's transaction. With an ``engine``, where the ledger is
    distributed, what waits is written before the batch, and names are bound after its commit.
    """

    def __init__(self, names: Mapping[str, PaymentName], now: datetime, engine: Engine | None) -> None:
        self._names, self._now, self._engine = names, now, engine
        self._plan: Plan | None = None

    def begin(self, plan: Plan) -> list[RowWrite]:
        """Return the writes that are part of the batch; else, where it is distributed, those before it.

        These are what waits, and names whose payment is still to come.
        """
        if self._engine is None:
            return writes_of(plan, self._names, self._now)
        if plan.waiting or any(name.user_id is None for name in plan.names):
            with self._engine.begin() as own:
                write_waiting(own, plan, self._names, self._now)
        return []

    def end(self, connection: Connection, plan: Plan) -> None:
        """Write what follows the batch in its transaction, or remember the names to be bound."""
        if self._engine is None:
            tidy(connection, plan)
        else:
            self._plan = plan

    def finish(self) -> None:
        """Bind the names of a batch that is committed."""
        if self._engine is None or self._plan is None:
            return
        for tries_left in reversed(range(_BINDINGS)):
            try:
                with translated_errors(), self._engine.begin() as own:
                    bind_after_all(own, self._plan, self._now)
            except ContentionError:
                if not tries_left:
                    raise
            else:
                return
