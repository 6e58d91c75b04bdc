"""Findings of the audit: it finds each corruption of a true ledger in its place, and nothing else."""

# ruff: noqa: S608 - the statements are put together from this file's own words

from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

import pytest
from sqlalchemy import Engine
from sqlalchemy.exc import IntegrityError

from schemas import slot_of
from schemas.slots import SLOTS
from tests.support.true_ledger import ACCOUNTS, ADA, BEN, CATALOG, CYD, DAN, FAY, GUS, HAL, OPENED
from worker.ledger.audit import CHECKS, Discrepancy, audit_snapshot
from worker.ledger.audit.shares import SLOT_BY_SLOT, divided
from worker.ledger.identifiers import IDENTIFIERS, SYMBOLS

#: The statement that corrupts, and the findings of the audit then, by what is corrupted.
Corruptions = Mapping[str, tuple[str, ...]]


def as_text(finding: Discrepancy) -> str:
    """A finding in short: its check, where it is, what must be and what is; accounts by their places."""
    account, values = place_of(finding.account_id), (finding.expected, finding.actual)
    if finding.check.endswith("_account") and finding.check != "operation_account":
        values = (place_of(finding.expected), place_of(finding.actual))
    user = f"account {account}" if finding.user_id is None else finding.user_id
    lot = None if finding.lot is None else f"lot {finding.lot}"
    entry = None if finding.sequence is None else f"entry {finding.sequence}"
    place = (finding.check, user, finding.reference_id, lot, entry, finding.quota)
    return f"{', '.join(filter(None, place))}: {values[0]} → {values[1]}"


def place_of(account_id: int | None) -> int | None:
    """The place of an account among those of the true ledger; another number stays."""
    return ACCOUNTS.index(account_id) + 1 if account_id in ACCOUNTS else account_id


_CODE, _TYPE = IDENTIFIERS["code"], IDENTIFIERS["type"]
APPLIED, REJECTED = (IDENTIFIERS["status"][status] for status in ("applied", "rejected"))
NO_QUANTITY, FREE = '{"quantity": 0}', '{"free_quantity": 3}'


def entry(account: int, sequence: int) -> str:
    return f"account_id = {account} AND sequence = {sequence}"


def lot(account: int, number: int) -> str:
    return f"account_id = {account} AND number = {number}"


def of(reference_id: str) -> str:
    return f"operation_id = {operation(reference_id)}"


def operation(reference_id: str) -> str:
    return f"(SELECT operation_id FROM operations WHERE reference_id = '{reference_id}' AND NOT is_taken)"


_ACCOUNTS: Corruptions = {
    "an account's balance": (
        "UPDATE accounts SET balance = balance + 7 WHERE user_id = 'ada'",
        "balance, ada: 415 → 422",
        "lots, ada: 415 → 422",
    ),
    "an account's allocated": (
        "UPDATE accounts SET allocated = allocated + 7 WHERE user_id = 'ada'",
        "allocated, ada: 500 → 507",
    ),
    "an account's purchased": (
        "UPDATE accounts SET purchased = purchased + 7 WHERE user_id = 'ada'",
        "purchased, ada: 90 → 97",
    ),
    "an account's bonus": (
        "UPDATE accounts SET bonus = bonus + 7 WHERE user_id = 'ada'",
        "bonus, ada: 110 → 117",
    ),
    "an account's refunded": (
        "UPDATE accounts SET refunded = refunded + 7 WHERE user_id = 'ada'",
        "refunded, ada: 25 → 32",
    ),
    "an account's adjusted": (
        "UPDATE accounts SET adjusted = adjusted + 7 WHERE user_id = 'ada'",
        "adjusted, ada: -10 → -3",
    ),
    "an account's used": (
        "UPDATE accounts SET used = used + 7 WHERE user_id = 'ada'",
        "used, ada: 131 → 138",
    ),
    "an account's expired": (
        "UPDATE accounts SET expired = expired + 7 WHERE user_id = 'ada'",
        "expired, ada: 169 → 176",
    ),
    "an account's reversed": (
        "UPDATE accounts SET reversed = reversed + 7 WHERE user_id = 'ada'",
        "reversed, ada: 0 → 7",
    ),
    "an account's sequence": (
        "UPDATE accounts SET sequence = sequence + 7 WHERE user_id = 'ada'",
        "sequence, ada: 14 → 21",
    ),
    "an account's held": (
        "UPDATE accounts SET held = held + 7 WHERE user_id = 'ada'",
        "held, ada: 0 → 7",
    ),
    "an account's debt": (
        "UPDATE accounts SET debt = debt + 7 WHERE user_id = 'ada'",
        "debt, ada: 0 → 7",
        "lots, ada: 408 → 415",
    ),
    "an account's lot_count": (
        "UPDATE accounts SET lot_count = lot_count + 7 WHERE user_id = 'ada'",
        "lot_count, ada: 7 → 14",
    ),
    "an account's period_granted": (
        "UPDATE accounts SET period_granted = period_granted + 7 WHERE user_id = 'ada'",
        "period_granted, ada: 250 → 257",
    ),
    "a tier that nobody chose to follow": (
        "UPDATE accounts SET next_tier = 'pro', next_tier_at = '2029-01-01 10:00:00' WHERE user_id = 'fay'",
        "next_tier, fay: 0 → 1",
    ),
    "a time without the tier that follows": (
        "UPDATE accounts SET next_tier_at = '2029-01-01 10:00:00.000000' WHERE user_id = 'fay'",
        "next_tier, fay: 0 → 1",
    ),
    "an account in the slot of another user": (
        f"UPDATE accounts SET slot = {slot_of('ben')} WHERE user_id = 'ibu'",
        "account_slot, ibu: 63 → 25",
        "operation_account, ibu, ibu-open: 1 → 0",
    ),
    "an account that nothing wakes": (
        "UPDATE accounts SET due_at = NULL WHERE user_id = 'fay'",
        "due, fay: 0 → 3",
    ),
    "an account that wakes too late for its hold": (
        "UPDATE accounts SET due_at = '2027-01-01 10:00:00.000000' WHERE user_id = 'ben'",
        "due, ben: 0 → 1",
    ),
    "an account that is gone": (
        "DELETE FROM accounts WHERE user_id = 'eve'",
        "operation_account, eve, eve-due-1: 1 → 0",
        "operation_account, eve, eve-due-2: 1 → 0",
        "operation_account, eve, eve-open: 1 → 0",
    ),
    "an account with entries that is gone": (
        "DELETE FROM accounts WHERE user_id = 'dan'",
        "account_missing, account 4: -25 → 0",
        "name_without_payment, dan, dan-pay: 1 → 0",
        "operation_account, dan, dan-credit: 1 → 0",
        "operation_account, dan, dan-failed: 1 → 0",
        "operation_account, dan, dan-hold: 1 → 0",
        "operation_account, dan, dan-open: 1 → 0",
        "operation_account, dan, dan-pay: 1 → 0",
        "operation_account, dan, dan-release: 1 → 0",
        "operation_account, dan, dan-use: 1 → 0",
    ),
}

_FREEZING: Corruptions = {
    "a frozen account": (
        "UPDATE accounts SET frozen_at = NULL WHERE user_id = 'hal'",
        "frozen, hal: 1 → 0",
    ),
    "an account that was frozen by its payment": (
        "UPDATE accounts SET frozen_at = NULL WHERE user_id = 'gus'",
        "frozen, gus: 1 → 0",
    ),
    "an account that was let go": (
        "UPDATE accounts SET frozen_at = opened_at WHERE user_id = 'fay'",
        "frozen, fay: 1 → 0",
    ),
    "the time at which an account was let go": (
        "UPDATE accounts SET unfrozen_at = NULL WHERE user_id = 'fay'",
        "frozen, fay: 1 → 0",
    ),
    "an account that nobody froze": (
        "UPDATE accounts SET frozen_at = opened_at WHERE user_id = 'ada'",
        "frozen, ada: 1 → 0",
    ),
}

_ENTRIES: Corruptions = {
    "an entry in the slot of another user": (
        f"UPDATE entries SET slot = {slot_of('ben')} WHERE {entry(ADA, 14)}",
        "account_missing, account 1: 250 → 0",
        "allocated, ada: 250 → 500",
        "balance, ada: 165 → 415",
        "entry_chain, account 1, lot 7, entry 14: 250 → 415",
        "entry_gap, account 1, lot 7, entry 14: 1 → 14",
        "entry_without_outcome, account 1, lot 7, entry 14: 0 → 250",
        "lot_missing, account 1, lot 7, entry 14: 0 → 250",
        "lot_remaining, ada, ada-renew, lot 7: 0 → 250",
        "operation_amount, ada, ada-renew: 250 → 0",
        "operation_entries, ada, ada-renew: 2 → 1",
        "sequence, ada: 13 → 14",
    ),
    "an entry in a slot that is none": (
        f"UPDATE entries SET slot = {SLOTS} WHERE {entry(ADA, 14)}",
        "account_missing, account 1: 250 → 0",
        "allocated, ada: 250 → 500",
        "balance, ada: 165 → 415",
        "entry_chain, account 1, lot 7, entry 14: 250 → 415",
        "entry_gap, account 1, lot 7, entry 14: 1 → 14",
        "entry_without_outcome, account 1, lot 7, entry 14: 0 → 250",
        "lot_missing, account 1, lot 7, entry 14: 0 → 250",
        "lot_remaining, ada, ada-renew, lot 7: 0 → 250",
        "operation_amount, ada, ada-renew: 250 → 0",
        "operation_entries, ada, ada-renew: 2 → 1",
        "sequence, ada: 13 → 14",
    ),
    "a hole in the sequence": (
        f"UPDATE entries SET sequence = 17 WHERE {entry(ADA, 14)}",
        "entry_gap, ada, ada-renew, lot 7, entry 17: 14 → 17",
        "entry_unclaimed, ada, ada-renew, lot 7, entry 17: 0 → 250",
        "operation_amount, ada, ada-renew: 250 → 0",
        "operation_entries, ada, ada-renew: 2 → 1",
        "sequence, ada: 17 → 14",
    ),
    "a broken chain": (
        f"UPDATE entries SET balance_after = 181 WHERE {entry(ADA, 2)}",
        "entry_chain, ada, ada-pages, lot 1, entry 3: 157 → 156",
        "entry_chain, ada, ada-use, lot 1, entry 2: 180 → 181",
        "operation_after, ada, ada-use: 181 → 180",
        "operation_before, ada, ada-use: 251 → 250",
    ),
    "a first entry that begins above zero": (
        f"UPDATE entries SET balance_after = 101 WHERE {entry(BEN, 1)}",
        "entry_chain, ben, ben-open, lot 1, entry 1: 100 → 101",
        "entry_chain, ben, ben-settle, lot 1, entry 2: 81 → 80",
        "operation_after, ben, ben-open: 101 → 100",
        "operation_before, ben, ben-open: 1 → 0",
    ),
    "an entry's amount": (
        f"UPDATE entries SET amount = -69 WHERE {entry(ADA, 2)}",
        "balance, ada: 416 → 415",
        "entry_chain, ada, ada-use, lot 1, entry 2: 181 → 180",
        "lot_remaining, ada, ada-open, lot 1: 1 → 0",
        "operation_amount, ada, ada-use: -70 → -69",
        "operation_before, ada, ada-use: 249 → 250",
        "used, ada: 130 → 131",
    ),
    "an entry's counter-account": (
        f"UPDATE entries SET counter = '{SYMBOLS['bonus']}' WHERE {entry(ADA, 7)}",
        "bonus, ada: 130 → 110",
        "bonus_lots, ada: 110 → 130",
        "operation_counter, ada, ada-back: 0 → 1",
        "refund_tokens, ada, ada-back: 0 → 20",
        "refunded, ada: 5 → 25",
    ),
    "the counter-account of an entry that fell due": (
        f"UPDATE entries SET counter = '{SYMBOLS['refunds']}' WHERE {entry(FAY, 5)}",
        "allocated, fay: 90 → 180",
        "operation_counter, fay, fay-due: 0 → 1",
        "refunded, fay: 90 → 0",
    ),
    "the last entry that is gone": (
        f"DELETE FROM entries WHERE {entry(FAY, 6)}",
        "balance, fay: 130 → 170",
        "bonus, fay: 0 → 40",
        "bonus_lots, fay: 40 → 0",
        "lot_remaining, fay, fay-later, lot 2: 0 → 40",
        "operation_entries, fay, fay-more: 1 → 0",
        "sequence, fay: 5 → 6",
    ),
    "half of a purchase that is gone": (
        f"DELETE FROM entries WHERE {entry(ADA, 6)}",
        "balance, ada: 405 → 415",
        "bonus, ada: 100 → 110",
        "bonus_lots, ada: 110 → 100",
        "entry_chain, ada, ada-back, lot 1, entry 7: 259 → 269",
        "entry_gap, ada, ada-back, lot 1, entry 7: 6 → 7",
        "lot_remaining, ada, ada-pay, lot 3: 0 → 10",
        "operation_amount, ada, ada-pay: 100 → 90",
        "operation_entries, ada, ada-pay: 2 → 1",
        "payment_bonus, ada, ada-pay: 0 → 10",
    ),
    "an entry whose operation is unknown": (
        f"UPDATE entries SET operation_id = 999 WHERE {entry(BEN, 1)}",
        "entry_without_outcome, ben, lot 1, entry 1: 0 → 100",
        "operation_entries, ben, ben-open: 1 → 0",
    ),
    "an entry of a refused operation": (
        f"UPDATE entries SET {of('ada-poor')} WHERE {entry(ADA, 12)}",
        "entry_without_outcome, ada, ada-poor, lot 5, entry 12: 0 → -30",
        "operation_entries, ada, ada-anew: 1 → 0",
    ),
    "an entry on the account of another user": (
        "UPDATE operations SET user_id = 'ibu' WHERE reference_id = 'ada-up'",
        "entry_account, ada, ada-up, lot 6, entry 10: 9 → 1",
        "lot_account, ada, ada-up, lot 6: 9 → 1",
        "operation_entries, ibu, ada-up: 1 → 0",
    ),
    "an entry that was posted too early": (
        f"UPDATE entries SET occurred_at = '2026-12-20 00:00:00.000000' WHERE {entry(FAY, 6)}",
        "entry_due, fay, fay-more, lot 2, entry 6: 0 → 40",
    ),
    "an entry that fell due and says it did not": (
        f"UPDATE entries SET is_due = false WHERE {entry(ADA, 13)}",
        "lot_late, ada, ada-renew, lot 1, entry 13: 0 → -169",
        "operation_amount, ada, ada-renew: 250 → 81",
        "operation_before, ada, ada-renew: 334 → 165",
        "operation_counter, ada, ada-renew: 0 → 1",
    ),
    "an entry that takes from another lot": (
        f"UPDATE entries SET lot = 6 WHERE {entry(ADA, 12)}",
        "lot_overdrawn, ada, ada-anew, lot 6, entry 12: 0 → -15",
        "lot_remaining, ada, ada-bonus, lot 5: 75 → 45",
        "lot_remaining, ada, ada-up, lot 6: -15 → 15",
    ),
    "an entry of a lot that does not exist": (
        f"UPDATE entries SET lot = 9 WHERE {entry(ADA, 10)}",
        "lot_missing, ada, ada-up, lot 9, entry 10: 0 → 15",
        "lot_remaining, ada, ada-up, lot 6: 0 → 15",
    ),
    "a debt that was repaid twice": (
        f"UPDATE entries SET lot = NULL WHERE {entry(DAN, 1)}",
        "debt, dan: -75 → 25",
        "lot_overdrawn, dan, dan-credit, entry 8: 0 → 75",
        "lot_overdrawn, dan, dan-failed, entry 5: 0 → 40",
        "lot_overdrawn, dan, dan-open, entry 1: 0 → 100",
        "lot_overdrawn, dan, dan-release, entry 7: 0 → 60",
        "lot_overdrawn, dan, dan-use, lot 1, entry 3: 0 → -100",
        "lot_remaining, dan, dan-open, lot 1: -100 → 0",
    ),
    "an entry of a lot that comes later": (
        f"UPDATE entries SET recorded_at = '2026-12-04 10:00:00.000000' WHERE {entry(FAY, 6)}",
        "entry_due, fay, fay-more, lot 2, entry 6: 0 → 40",
        "lot_early, fay, fay-more, lot 2, entry 6: 0 → 40",
    ),
    "usage of a lot after its end": (
        f"UPDATE lots SET expires_at = '2026-12-04 10:00:00.000000' WHERE account_id = {GUS} AND number = 3",
        "lot_late, gus, gus-cancel, lot 3, entry 7: 0 → -110",
        "lot_late, gus, gus-use, lot 3, entry 6: 0 → -10",
        "period_granted, gus: 0 → 10",
    ),
}

_OPERATIONS: Corruptions = {
    "an applied operation that becomes refused": (
        f"UPDATE operations SET status = {REJECTED}, amount = NULL WHERE reference_id = 'ada-anew'",
        "entry_without_outcome, ada, ada-anew, lot 5, entry 12: 0 → -30",
    ),
    "an operation that seems to have moved tokens": (
        "UPDATE operations SET amount = 1 WHERE reference_id = 'gus-again'",
        "operation_without_entries, gus, gus-again: 1 → 0",
    ),
    "an operation's amount": (
        "UPDATE operations SET amount = 31 WHERE reference_id = 'ada-anew'",
        "operation_amount, ada, ada-anew: -31 → -30",
        "operation_before, ada, ada-anew: 364 → 365",
    ),
    "the amount of what fell due with a reservation": (
        "UPDATE operations SET amount = 26 WHERE reference_id = 'ben-hold-4'",
        "hold_reserved, ben, ben-hold-4: 26 → 25",
    ),
    "an operation's balance before": (
        "UPDATE operations SET balance_before = NULL WHERE reference_id = 'ada-pay'",
        "operation_before, ada, ada-pay: 149 → 349",
    ),
    "the balance before what fell due": (
        "UPDATE operations SET balance_before = 90 WHERE reference_id = 'fay-due'",
        "operation_before, fay, fay-due: 130 → 90",
    ),
    "a release that frees more than there was": (
        "UPDATE operations SET balance_before = -41 WHERE reference_id = 'dan-release'",
        "operation_before, dan, dan-release: -40 → -41",
    ),
    "an operation's balance after": (
        "UPDATE operations SET balance_after = 251 WHERE reference_id = 'ada-pay'",
        "operation_after, ada, ada-pay: 249 → 251",
    ),
    "an upload that seems to have moved tokens": (
        "UPDATE operations SET balance_after = balance_before - 1 WHERE reference_id = 'ada-up-1'",
        "operation_after, ada, ada-up-1: 149 → 148",
    ),
    "an operation's first entry": (
        "UPDATE operations SET first_entry = 6 WHERE reference_id = 'ada-pay'",
        "entry_unclaimed, ada, ada-pay, lot 2, entry 5: 0 → 90",
        "operation_amount, ada, ada-pay: 100 → 10",
        "operation_before, ada, ada-pay: 239 → 149",
        "payment_base, ada, ada-pay: 0 → 90",
    ),
    "an operation's last entry": (
        "UPDATE operations SET last_entry = 5 WHERE reference_id = 'ada-pay'",
        "entry_unclaimed, ada, ada-pay, lot 3, entry 6: 0 → 10",
        "operation_after, ada, ada-pay: 239 → 249",
        "operation_amount, ada, ada-pay: 100 → 90",
        "payment_bonus, ada, ada-pay: 0 → 10",
    ),
    "an operation that says nothing of its entries": (
        "UPDATE operations SET first_entry = NULL, last_entry = NULL WHERE reference_id = 'ada-up'",
        "entry_unclaimed, ada, ada-up, lot 6, entry 10: 0 → 15",
        "operation_without_entries, ada, ada-up: 15 → 0",
    ),
    "an operation that claims the entries of another": (
        "UPDATE operations SET first_entry = 1, last_entry = 2 WHERE reference_id = 'ben-due'",
        "operation_entries, ben, ben-due: 2 → 0",
    ),
    "usage of nothing that owns what was due": (
        f"UPDATE operations SET code = {_CODE['tokens_deducted']} WHERE reference_id = 'fay-due'",
        "operation_of_nothing, fay, fay-due: 0 → 4",
    ),
    "metered usage of nothing that owns what was due": (
        (
            f"UPDATE operations SET code = {_CODE['usage_recorded']}, detail = '{NO_QUANTITY}'"
            f" WHERE {of('fay-due')}"
        ),
        "operation_of_nothing, fay, fay-due: 0 → 4",
    ),
    "an operation in the slot of another user": (
        f"UPDATE operations SET slot = {slot_of('ben')} WHERE reference_id = 'ibu-open'",
        "operation_account, ibu, ibu-open: 1 → 0",
        "operation_slot, ibu, ibu-open: 63 → 25",
    ),
    "an operation of an unknown sender": (
        "UPDATE operations SET sender_id = 7 WHERE reference_id = 'ada-anew'",
        "operation_sender, ada, ada-anew: 0 → 7",
    ),
    "an operation of an unknown catalog": (
        "UPDATE operations SET catalog_id = -7 WHERE reference_id = 'ada-anew'",
        "operation_catalog, ada, ada-anew: 0 → -7",
    ),
    "a superseded outcome that was applied": (
        f"UPDATE superseded_outcomes SET status = {APPLIED} WHERE reference_id = 'ada-anew'",
        "superseded_moved, ada, ada-anew: 0 → 1",
    ),
    "an outcome that another user superseded": (
        "UPDATE superseded_outcomes SET user_id = 'ibu' WHERE reference_id = 'ada-anew'",
        "superseded_by, ada, ada-anew: 0 → 1",
    ),
    "an outcome that an earlier attempt superseded": (
        "UPDATE superseded_outcomes SET attempt = 3 WHERE reference_id = 'ada-anew'",
        "superseded_by, ada, ada-anew: 0 → 1",
    ),
    "an outcome that another command superseded": (
        f"UPDATE superseded_outcomes SET type = {_TYPE['usage.record']} WHERE reference_id = 'ada-anew'",
        "superseded_by, ada, ada-anew: 0 → 1",
    ),
    "an outcome that another reference superseded": (
        "UPDATE superseded_outcomes SET reference_id = 'ada-new' WHERE reference_id = 'ada-anew'",
        "superseded_by, ada, ada-anew: 0 → 1",
    ),
    "a taken operation that took tokens": (
        "UPDATE operations SET amount = 5 WHERE reference_id = 'eve-due-2' AND is_taken",
        "taken_moved, ada, eve-due-2: 0 → 1",
        "upload_without_quota_entry, ada, eve-due-2: 5 → 0",
    ),
    "a taken operation that counted a quota": (
        (
            f"UPDATE operations SET code = {_CODE['usage_recorded']}, detail = '{FREE}'"
            " WHERE reference_id = 'eve-due-2' AND is_taken"
        ),
        "record_free, ada, eve-due-2: 3 → 0",
        "taken_moved, ada, eve-due-2: 0 → 1",
    ),
    "a taken operation that owns entries": (
        "UPDATE operations SET first_entry = 1, last_entry = 1 WHERE reference_id = 'eve-due-2' AND is_taken",
        "operation_entries, ada, eve-due-2: 1 → 0",
        "taken_moved, ada, eve-due-2: 0 → 1",
    ),
    "a taken operation that is no usage": (
        f"UPDATE operations SET type = {_TYPE['credit.bonus']} WHERE reference_id = 'eve-due-1' AND is_taken",
        "taken_moved, nobody, eve-due-1: 0 → 1",
    ),
    "a reference that was taken by nobody": (
        "UPDATE operations SET is_taken = true WHERE reference_id = 'ada-none'",
        "taken_without_taker, ada, ada-none: 1 → 0",
    ),
    "a reference that usage took": (
        (
            f"UPDATE operations SET type = {_TYPE['usage.deduct']}"
            " WHERE reference_id = 'eve-due-1' AND NOT is_taken"
        ),
        "taken_without_taker, nobody, eve-due-1: 1 → 0",
    ),
    "half of a transfer": (
        f"UPDATE entries SET counter = '{SYMBOLS['expiry']}' WHERE {entry(FAY, 2)}",
        "expired, fay: 90 → 50",
        "operation_transfers, fay, fay-due: 0 → 40",
    ),
}

_LOTS: Corruptions = {
    "what remains of a lot": (
        f"UPDATE lots SET remaining = 44 WHERE {lot(ADA, 5)}",
        "lot_remaining, ada, ada-bonus, lot 5: 45 → 44",
        "lots, ada: 414 → 415",
    ),
    "what is held of a lot": (
        f"UPDATE lots SET held = 1 WHERE {lot(ADA, 2)}",
        "lot_held, ada, ada-pay, lot 2: 0 → 1",
    ),
    "what is pending of a lot that is full": (
        f"UPDATE lots SET pending = 1 WHERE {lot(ADA, 2)}",
        "due, ada: 0 → 1",
        "lot_full, ada, ada-pay, lot 2: 90 → 91",
        "lot_pending, ada, ada-pay, lot 2: 90 → 1",
    ),
    "a part of what is pending": (
        f"UPDATE lots SET pending = 39, remaining = 0 WHERE {lot(FAY, 2)}",
        "bonus_lots, fay: 1 → 40",
        "due, fay: 0 → 1",
        "lot_pending, fay, fay-later, lot 2: 40 → 39",
        "lot_remaining, fay, fay-later, lot 2: 40 → 0",
        "lots, fay: 130 → 170",
    ),
    "what was rolled over": (
        f"UPDATE lots SET granted = 41 WHERE {lot(FAY, 4)}",
        "lot_granted, fay, fay-due, lot 4: 40 → 41",
    ),
    "an allocation that seems to be carried over": (
        f"UPDATE lots SET source = 'carried_over' WHERE {lot(GUS, 1)}",
        "lot_without_outcome, gus, gus-open, lot 1: 0 → 120",
    ),
    "an allocation that takes effect later": (
        f"UPDATE lots SET pending = granted, effective_at = '2027-03-01 00:00:00.000000' WHERE {lot(HAL, 1)}",
        "allocation_lots, hal: 0 → 100",
        "lot_early, hal, hal-open, lot 1, entry 1: 0 → 100",
        "lot_early, hal, hal-use, lot 1, entry 3: 0 → -100",
        "lot_open, hal, hal-open, lot 1: 1 → 0",
    ),
    "a lot that is closed too early": (
        f"UPDATE lots SET is_open = false WHERE {lot(ADA, 2)}",
        "lot_open, ada, ada-pay, lot 2: 1 → 0",
    ),
    "a lot that is open too long": (
        f"UPDATE lots SET is_open = true WHERE {lot(ADA, 1)}",
        "lot_open, ada, ada-open, lot 1: 0 → 1",
    ),
    "a hole between lots": (
        f"UPDATE lots SET number = 12 WHERE {lot(FAY, 4)}",
        "lot_count, fay: 12 → 4",
        "lot_gap, fay, fay-due, lot 12: 4 → 12",
        "lot_granted, fay, fay-due, lot 12: 0 → 40",
        "lot_missing, fay, fay-due, lot 4, entry 3: 0 → 40",
        "lot_remaining, fay, fay-due, lot 12: 0 → 40",
    ),
    "a lot that is gone": (
        f"DELETE FROM lots WHERE {lot(DAN, 3)}",
        "lot_count, dan: 2 → 3",
    ),
    "what a purchase was granted": (
        f"UPDATE lots SET granted = 91 WHERE {lot(ADA, 2)}",
        "lot_granted, ada, ada-pay, lot 2: 90 → 91",
    ),
    "what the bonus of a purchase was granted": (
        f"UPDATE lots SET granted = 11 WHERE {lot(ADA, 3)}",
        "bonus_lots, ada: 111 → 110",
        "lot_granted, ada, ada-pay, lot 3: 10 → 11",
    ),
    "what a bonus was granted": (
        f"UPDATE lots SET granted = 101 WHERE {lot(ADA, 5)}",
        "bonus_lots, ada: 111 → 110",
        "lot_granted, ada, ada-bonus, lot 5: 100 → 101",
    ),
    "what an adjustment was granted": (
        f"UPDATE lots SET granted = 16 WHERE {lot(ADA, 6)}",
        "lot_granted, ada, ada-up, lot 6: 15 → 16",
    ),
    "what a refund was granted": (
        f"UPDATE lots SET granted = 6 WHERE {lot(ADA, 4)}",
        "lot_granted, ada, ada-gift, lot 4: 5 → 6",
    ),
    "what a payment whose event came first was granted": (
        f"UPDATE lots SET granted = 91 WHERE {lot(CYD, 4)}",
        "lot_granted, cyd, cyd-pay-2, lot 4: 90 → 91",
    ),
    "what the first period was granted": (
        f"UPDATE lots SET granted = 251 WHERE {lot(ADA, 1)}",
        "lot_granted, ada, ada-open, lot 1: 250 → 251",
    ),
    "what a period was granted ahead of time": (
        f"UPDATE lots SET granted = 91 WHERE {lot(FAY, 3)}",
        "lot_granted, fay, fay-ahead, lot 3: 90 → 91",
        "period_granted, fay: 91 → 90",
    ),
    "a bonus whose purchase is none": (
        f"UPDATE lots SET source = 'adjustment' WHERE {lot(ADA, 2)}",
        "lot_granted, ada, ada-pay, lot 2: 0 → 90",
        "lot_parent, ada, ada-pay, lot 3: None → 2",
    ),
    "where a lot comes from": (
        f"UPDATE lots SET source = 'adjustment' WHERE {lot(ADA, 5)}",
        "bonus_lots, ada: 10 → 110",
        "lot_granted, ada, ada-bonus, lot 5: 0 → 100",
    ),
    "a bonus without its purchase": (
        f"UPDATE lots SET parent = NULL WHERE {lot(ADA, 3)}",
        "lot_parent, ada, ada-pay, lot 3: 2 → None",
    ),
    "a bonus of another purchase": (
        f"UPDATE lots SET parent = 2 WHERE {lot(CYD, 5)}",
        "lot_parent, cyd, cyd-pay-2, lot 5: 4 → 2",
    ),
    "a lot that was rolled over from a bonus": (
        f"UPDATE lots SET parent = 2 WHERE {lot(FAY, 4)}",
        "lot_parent, fay, fay-due, lot 4: None → 2",
    ),
    "a lot that nothing was rolled over to": (
        f"UPDATE lots SET parent = 1 WHERE {lot(ADA, 6)}",
        "lot_parent, ada, ada-up, lot 6: None → 1",
    ),
    "a lot without an operation": (
        f"UPDATE lots SET operation_id = NULL WHERE {lot(FAY, 2)}",
        "lot_without_outcome, fay, lot 2: 0 → 40",
    ),
    "a lot of a refused operation": (
        f"UPDATE lots SET {of('ada-poor')} WHERE {lot(ADA, 5)}",
        "lot_without_outcome, ada, ada-poor, lot 5: 0 → 100",
    ),
    "a lot on the account of another user": (
        f"UPDATE lots SET {of('ben-due')} WHERE {lot(FAY, 4)}",
        "lot_without_outcome, fay, lot 4: 0 → 40",
    ),
    "a lot that ended, and nobody canceled": (
        f"UPDATE lots SET ended_at = '2027-06-01 10:00:00.000000' WHERE {lot(GUS, 1)}",
        "lot_not_canceled, gus, gus-open, lot 1: 0 → 120",
    ),
    "what is left of a lot that was ended": (
        f"UPDATE lots SET ended_at = '2027-06-01 10:00:00.000000' WHERE {lot(ADA, 7)}",
        "lot_ended, ada, ada-renew, lot 7: 0 → 250",
        "lot_not_canceled, ada, ada-renew, lot 7: 0 → 250",
    ),
    "a period that was granted twice": (
        f"UPDATE lots SET {of('gus-use')} WHERE {lot(GUS, 2)}",
        "allocation_twice, gus, gus-use, lot 2: 0 → 130",
    ),
}

_HOLDS: Corruptions = {
    "a hold's amount": (
        "UPDATE holds SET amount = 26 WHERE reference_id = 'ben-hold-4'",
        "held, ben: 26 → 25",
        "hold_amount, ben, ben-hold-4: 25 → 26",
        "hold_reserved, ben, ben-hold-4: 25 → 26",
    ),
    "a hold of a dispute that usage opened": (
        f"UPDATE holds SET operation_id = {operation('kim-use')} WHERE reference_id = 'kim-kept'",
        "hold_amount, kim, kim-use: 0 → 100",
        "hold_without_outcome, kim, kim-use: 0 → 100",
        "part_without_hold, kim, kim-kept, lot 7: 0 → 90",
        "part_without_hold, kim, kim-kept, lot 8: 0 → 10",
    ),
    "a hold of usage that is called one of a dispute": (
        "UPDATE holds SET is_dispute = true WHERE reference_id = 'ben-hold-4'",
        "hold_without_outcome, ben, ben-hold-4: 0 → 25",
    ),
    "a hold of a dispute that is called one of usage": (
        "UPDATE holds SET is_dispute = false WHERE reference_id = 'kim-kept'",
        "hold_end, kim, kim-kept: 1 → 0",
        "hold_without_outcome, kim, kim-kept: 0 → 100",
    ),
    "a hold of a dispute that usage ended": (
        f"UPDATE holds SET closed_by = {operation('kim-use')} WHERE reference_id = 'kim-kept'",
        "hold_end, kim, kim-kept: 1 → 0",
    ),
    "what a dispute kept": (
        "UPDATE holds SET amount = 101 WHERE reference_id = 'kim-kept'",
        "hold_amount, kim, kim-kept: 100 → 101",
    ),
    "a hold that is gone": (
        "DELETE FROM holds WHERE reference_id = 'ben-hold-3'",
        "hold_missing, ben, ben-hold-3: 1 → 0",
        "part_without_hold, ben, ben-hold-3, lot 1: 0 → 15",
    ),
    "what was captured": (
        "UPDATE holds SET captured = 21 WHERE reference_id = 'ben-hold-1'",
        "hold_captured, ben, ben-hold-1: 20 → 21",
        "hold_ended, ben, ben-settle: 20 → 21",
    ),
    "what was captured of a hold that ran out": (
        "UPDATE holds SET captured = 1 WHERE reference_id = 'ben-hold-3'",
        "hold_captured, ben, ben-hold-3: 0 → 1",
    ),
    "a part of a hold": (
        f"UPDATE hold_parts SET amount = 24 WHERE {of('ben-hold-4')}",
        "hold_amount, ben, ben-hold-4: 24 → 25",
        "lot_held, ben, ben-open, lot 1: 24 → 25",
    ),
    "a part that is gone": (
        f"DELETE FROM hold_parts WHERE {of('ben-hold-2')}",
        "hold_amount, ben, ben-hold-2: 0 → 10",
    ),
    "a part of a hold that is none": (
        f"UPDATE hold_parts SET {of('ben-back')} WHERE {of('ben-hold-2')}",
        "hold_amount, ben, ben-hold-2: 0 → 10",
        "part_without_hold, ben, ben-back, lot 1: 0 → 10",
    ),
    "a part on a lot that does not exist": (
        f"UPDATE hold_parts SET lot = 2 WHERE {of('ben-hold-2')}",
        "part_without_lot, ben, ben-hold-2, lot 2: 0 → 10",
    ),
    "a hold of another reference": (
        "UPDATE holds SET reference_id = 'ben-hold-9' WHERE reference_id = 'ben-hold-3'",
        "hold_without_outcome, ben, ben-hold-3: 0 → 15",
    ),
    "a hold of an operation that is no reservation": (
        f"UPDATE holds SET {of('ben-due')} WHERE reference_id = 'ben-hold-3'",
        "hold_amount, ben, ben-due: 0 → 15",
        "hold_missing, ben, ben-hold-3: 1 → 0",
        "hold_without_outcome, ben, ben-due: 0 → 15",
        "part_without_hold, ben, ben-hold-3, lot 1: 0 → 15",
    ),
    "a hold on the account of another user": (
        f"UPDATE holds SET account_id = {HAL} WHERE reference_id = 'ben-hold-3'",
        "hold_account, ben, ben-hold-3: 2 → 8",
        "hold_amount, ben, ben-hold-3: 0 → 15",
        "part_without_hold, ben, ben-hold-3, lot 1: 0 → 15",
    ),
    "a hold that is open again": (
        (
            "UPDATE holds SET state = 'open', closed_by = NULL, closed_at = NULL"
            " WHERE reference_id = 'ben-hold-2'"
        ),
        "due, ben: 0 → 1",
        "held, ben: 35 → 25",
        "hold_ended, ben, ben-release: 10 → None",
        "lot_held, ben, ben-open, lot 1: 35 → 25",
    ),
    "a hold that was released and says it was settled": (
        "UPDATE holds SET state = 'settled' WHERE reference_id = 'ben-hold-2'",
        "hold_captured, ben, ben-hold-2: 10 → 0",
        "hold_end, ben, ben-hold-2: 1 → 0",
        "hold_ended, ben, ben-release: 10 → None",
    ),
    "a hold that was ended by what can't end one": (
        f"UPDATE holds SET closed_by = {operation('ben-back')} WHERE reference_id = 'ben-hold-2'",
        "hold_end, ben, ben-hold-2: 1 → 0",
        "hold_ended, ben, ben-release: 10 → None",
    ),
    "a hold that was ended by another user": (
        f"UPDATE holds SET closed_by = {operation('fay-due')} WHERE reference_id = 'ben-hold-3'",
        "hold_end, ben, ben-hold-3: 1 → 0",
    ),
    "a hold that ran out before its time": (
        "UPDATE holds SET closed_at = opened_at WHERE reference_id = 'ben-hold-3'",
        "hold_end, ben, ben-hold-3: 1 → 0",
    ),
    "a hold that is open and was ended": (
        f"UPDATE holds SET closed_by = {operation('ben-due')} WHERE reference_id = 'ben-hold-4'",
        "hold_end, ben, ben-hold-4: 1 → 0",
    ),
}

_LATE_HOLDS: Corruptions = {
    "a hold that ends before its extension says": (
        "UPDATE holds SET expires_at = opened_at WHERE reference_id = 'hal-hold-3'",
        "due, hal: 0 → 1",
        "hold_ended, hal, hal-extend-3: 20 → None",
        "hold_until, hal, hal-hold-3: 0 → 1",
    ),
    "a hold that ends after its extension says": (
        "UPDATE holds SET expires_at = '2027-01-09 10:00:00.000000' WHERE reference_id = 'hal-hold-3'",
        "hold_until, hal, hal-hold-3: 0 → 1",
    ),
    "a hold that was never extended and ends later": (
        "UPDATE holds SET expires_at = '2027-01-09 10:00:00.000000' WHERE reference_id = 'ben-hold-2'",
        "hold_until, ben, ben-hold-2: 0 → 1",
    ),
    "an extension of no hold": (
        (
            'UPDATE operations SET detail = \'{"original_reference_id": "ada-use"}\''
            " WHERE reference_id = 'hal-extend'"
        ),
        "hold_ended, hal, hal-extend: 30 → None",
        "hold_until, hal, hal-hold-1: 0 → 1",
    ),
    "what was captured late": (
        "UPDATE holds SET captured = 26 WHERE reference_id = 'hal-hold-1'",
        "hold_captured, hal, hal-hold-1: 25 → 26",
        "hold_ended, hal, hal-late-1: 25 → 26",
    ),
    "a late capture that is forgotten": (
        "UPDATE holds SET captured = 0, state = 'expired' WHERE reference_id = 'hal-hold-2'",
        "hold_ended, hal, hal-late-2: 45 → None",
    ),
    "a late capture that says it was in time": (
        "UPDATE holds SET closed_at = opened_at WHERE reference_id = 'hal-hold-2'",
        "hold_captured, hal, hal-hold-2: 0 → 45",
        "hold_end, hal, hal-hold-2: 1 → 0",
        "hold_ended, hal, hal-late-2: 45 → None",
    ),
}

_REFUNDS: Corruptions = {
    "a refund of usage that is gone": (
        f"DELETE FROM usage_refunds WHERE {of('ada-back')}",
        "refund_missing, ada, ada-back: 1 → 0",
    ),
    "a refund's tokens": (
        f"UPDATE usage_refunds SET tokens = 21 WHERE {of('ada-back')}",
        "refund_tokens, ada, ada-back: 20 → 21",
    ),
    "more than the usage took": (
        f"UPDATE usage_refunds SET tokens = 71 WHERE {of('ada-back')}",
        "refund_exceeds, ada, ada-use: 70 → 71",
        "refund_tokens, ada, ada-back: 20 → 71",
    ),
    "a refund of what took nothing": (
        f"UPDATE usage_refunds SET original_id = {operation('ada-bonus')} WHERE {of('ada-back')}",
        "refund_original, ada, ada-back: 0 → 20",
    ),
    "a refund of another user's usage": (
        f"UPDATE usage_refunds SET original_id = {operation('ben-settle')} WHERE {of('ada-back')}",
        "refund_original, ada, ada-back: 0 → 20",
    ),
    "a refund of an operation that is none": (
        f"UPDATE usage_refunds SET {of('ada-gift')} WHERE {of('ada-back')}",
        "refund_missing, ada, ada-back: 1 → 0",
        "refund_original, ada, ada-gift: 0 → 20",
        "refund_tokens, ada, ada-gift: 5 → 20",
    ),
    "a refund that its operation does not know": (
        f"UPDATE usage_refunds SET {of('ada-up')} WHERE {of('ada-back')}",
        "refund_missing, ada, ada-back: 1 → 0",
        "refund_original, ada, ada-up: 0 → 20",
        "refund_tokens, ada, ada-up: 0 → 20",
        "refund_without_outcome, ada, ada-up: 0 → 20",
    ),
    "a refund on the account of another user": (
        f"UPDATE usage_refunds SET account_id = {BEN} WHERE {of('ada-back')}",
        "refund_account, ada, ada-back: 1 → 2",
        "refund_original, ada, ada-back: 0 → 20",
    ),
}

_UP_2 = "meter = 'free_upload' AND sequence = 2"
_FREED = "meter = 'search' AND sequence = 2"

_FREE_REFUNDS: Corruptions = {
    "the free units of a refund": (
        f"UPDATE usage_refunds SET free_quantity = 4 WHERE {of('ada-free')}",
        "refund_free, ada, ada-free: 4 → 3",
    ),
    "more free units than the usage took": (
        f"UPDATE usage_refunds SET free_quantity = 5 WHERE {of('ada-free')}",
        "refund_free, ada, ada-free: 5 → 3",
        "refund_free_exceeds, ada, ada-search: 4 → 5",
    ),
    "free units that went back to another meter": (
        f"UPDATE quota_entries SET meter = 'page' WHERE {_FREED}",
        "quota_chain, ada, ada-free, entry 2, page 2026-11-01: 0 → 1",
        "quota_sequence, ada, page 2026-11-01: 2 → 1",
        "quota_sequence, ada, search 2026-11-01: 1 → 2",
        "quota_used, ada, page 2026-11-01: 0 → 3",
        "quota_used, ada, search 2026-11-01: 4 → 1",
        "refund_quota, ada, ada-free: 0 → 3",
    ),
    "free units that went back to another period": (
        f"UPDATE quota_entries SET period_start = '2026-10-01' WHERE {_FREED}",
        "quota_chain, ada, ada-free, entry 2, search 2026-10-01: -3 → 1",
        "quota_gap, ada, ada-free, entry 2, search 2026-10-01: 1 → 2",
        "quota_missing, ada, search 2026-10-01: -3 → 0",
        "quota_sequence, ada, search 2026-11-01: 1 → 2",
        "quota_used, ada, search 2026-11-01: 4 → 1",
        "refund_quota, ada, ada-free: 0 → 3",
    ),
    "a refund without its quota entry": (
        f"DELETE FROM quota_entries WHERE {_FREED}",
        "quota_sequence, ada, search 2026-11-01: 1 → 2",
        "quota_used, ada, search 2026-11-01: 4 → 1",
        "refund_free, ada, ada-free: 3 → 0",
    ),
}

_PAYMENTS: Corruptions = {
    "a payment that is gone": (
        f"DELETE FROM payments WHERE {of('ada-pay')}",
        "lot_granted, ada, ada-pay, lot 2: 0 → 90",
        "lot_granted, ada, ada-pay, lot 3: 0 → 10",
        "name_without_payment, ada, ada-pay: 1 → 0",
        "payment_missing, ada, ada-pay: 1 → 0",
    ),
    "a payment's base tokens": (
        f"UPDATE payments SET base_tokens = 91 WHERE {of('ada-pay')}",
        "lot_granted, ada, ada-pay, lot 2: 91 → 90",
        "payment_base, ada, ada-pay: 90 → 91",
    ),
    "a payment's bonus tokens": (
        f"UPDATE payments SET bonus_tokens = 0 WHERE {of('ada-pay')}",
        "lot_granted, ada, ada-pay, lot 3: 0 → 10",
        "payment_bonus, ada, ada-pay: 10 → 0",
    ),
    "a payment of an operation that is none": (
        f"UPDATE payments SET {of('ada-gift')} WHERE {of('ada-pay')}",
        "lot_granted, ada, ada-pay, lot 2: 0 → 90",
        "lot_granted, ada, ada-pay, lot 3: 0 → 10",
        "payment_base, ada, ada-gift: 0 → 90",
        "payment_bonus, ada, ada-gift: 0 → 10",
        "payment_missing, ada, ada-pay: 1 → 0",
        "payment_without_outcome, ada, ada-gift: 0 → 100",
    ),
    "a payment on the account of another user": (
        f"UPDATE payments SET account_id = {BEN} WHERE {of('ada-pay')}",
        "name_without_payment, ada, ada-pay: 1 → 0",
        "payment_account, ada, ada-pay: 1 → 2",
    ),
    "the money of a payment that went back": (
        f"UPDATE payments SET amount_minor = 1998 WHERE {of('cyd-pay-2')}",
        "payment_back, cyd, cyd-pay-2: 33 → 66",
    ),
    "the money of an event": (
        "UPDATE payment_events SET amount_minor = 666 WHERE reference_id = 'cyd-early'",
        "payment_back, cyd, cyd-pay-2: 100 → 66",
    ),
    "what happened": (
        f"UPDATE payment_events SET happened = 'dispute_won' WHERE {of('hal-lost')}",
        "event_without_outcome, hal, hal-lost: 1 → 0",
        "payment_back, hal, hal-pay: 0 → 60",
    ),
    "an event that is gone": (
        f"DELETE FROM payment_events WHERE {of('hal-lost')}",
        "event_collected, hal, hal-lost: 10 → 0",
        "event_missing, hal, hal-lost: 1 → 0",
    ),
    "what an event collected": (
        f"UPDATE payment_events SET collected = 11 WHERE {of('hal-lost')}",
        "event_amount, hal, hal-lost: 11 → 10",
        "event_collected, hal, hal-lost: 10 → 11",
        "payment_back, hal, hal-pay: 60 → 61",
    ),
    "what an event that was taken in collected": (
        "UPDATE payment_events SET collected = 1 WHERE reference_id = 'cyd-early'",
        "payment_back, cyd, cyd-pay-2: 66 → 67",
    ),
    "what an event without entries collected": (
        "UPDATE payment_events SET collected = 1 WHERE reference_id = 'kim-asked'",
        "event_amount, kim, kim-asked: 1 → 0",
        "event_collected, kim, kim-asked: 0 → 1",
        "payment_back, kim, kim-pay-1: 0 → 1",
    ),
    "what an open dispute collected": (
        "UPDATE payment_events SET collected = 1 WHERE reference_id = 'cyd-undecided'",
        "event_amount, cyd, cyd-undecided: 1 → 60",
        "event_collected, cyd, cyd-undecided: 60 → 1",
        "payment_back, cyd, cyd-pay-3: 60 → 1",
    ),
    "a refund that failed another one": (
        "UPDATE payment_events SET refund_reference = 'other' WHERE reference_id = 'kim-re-1-failed'",
        "payment_back, kim, kim-pay-1: 33 → 0",
    ),
    "the latest total": (
        "UPDATE payment_events SET amount_minor = 499 WHERE reference_id = 'kim-total'",
        "payment_back, kim, kim-pay-2: 60 → 30",
    ),
    "the kind of a total": (
        "UPDATE payment_events SET happened = 'refunded' WHERE reference_id = 'kim-total'",
        "payment_back, kim, kim-pay-2: 41 → 30",
    ),
    "the result of a dispute": (
        "UPDATE payment_events SET happened = 'dispute_lost' WHERE reference_id = 'kim-prevented'",
        "event_without_outcome, kim, kim-prevented: 1 → 0",
        "payment_back, kim, kim-pay-1: 100 → 0",
    ),
    "the dispute of a closing": (
        "UPDATE payment_events SET dispute_id = 'other' WHERE reference_id = 'cyd-won'",
        "payment_back, cyd, cyd-pay-1: 85 → 0",
    ),
    "the stage of a dispute": (
        "UPDATE payment_events SET happened = 'disputed' WHERE reference_id = 'kim-asked'",
        "event_without_outcome, kim, kim-asked: 1 → 0",
    ),
    "an event that another operation took in": (
        f"UPDATE payment_events SET {of('kim-use')} WHERE reference_id = 'kim-re-1'",
        "event_without_outcome, kim, kim-use: 1 → 0",
    ),
    "the money of a payment that was taken in": (
        "UPDATE payments SET amount_minor = 1998 WHERE reference_id = 'kim-pay-3'",
        "payment_back, kim, kim-pay-3: 18 → 38",
    ),
    "what was written off": (
        f"UPDATE payment_events SET uncollected = 51 WHERE {of('hal-lost')}",
        "payment_back, hal, hal-pay: 60 → 61",
    ),
    "less than nothing that was written off": (
        f"UPDATE payment_events SET uncollected = -1 WHERE {of('dan-failed')}",
        "payment_back, dan, dan-pay: 60 → 59",
        "payment_uncollected, dan, dan-pay: 0 → -1",
    ),
    "an event of no payment": (
        "UPDATE payment_events SET payment_reference = 'nowhere' WHERE reference_id = 'cyd-refunded'",
        "event_awaited, cyd, cyd-refunded: 0 → 33",
    ),
    "an event of another payment": (
        f"UPDATE payment_events SET payment_reference = 'cyd-pay-1' WHERE {of('dan-failed')}",
        "event_awaited, dan, dan-failed: 0 → 60",
    ),
    "an event of an operation that is none": (
        f"UPDATE payment_events SET {of('dan-use')} WHERE {of('dan-failed')}",
        "event_collected, dan, dan-failed: 60 → 0",
        "event_missing, dan, dan-failed: 1 → 0",
        "event_without_outcome, dan, dan-use: 1 → 0",
    ),
    "an event on the account of another user": (
        f"UPDATE payment_events SET account_id = {ADA} WHERE reference_id = 'cyd-undecided'",
        "event_account, cyd, cyd-undecided: 3 → 1",
        "event_awaited, cyd, cyd-undecided: 0 → 60",
    ),
    "the amount of what an event moved": (
        "UPDATE operations SET amount = 34 WHERE reference_id = 'cyd-refunded'",
        "event_amount, cyd, cyd-refunded: 33 → 34",
        "operation_before, cyd, cyd-refunded: 252 → 253",
    ),
}

_QUOTAS: Corruptions = {
    "a quota's use": (
        "UPDATE quotas SET used = 31 WHERE meter = 'free_upload'",
        "quota_used, ada, free_upload 2026-11-01: 30 → 31",
    ),
    "a quota's sequence": (
        "UPDATE quotas SET sequence = 3 WHERE meter = 'free_upload'",
        "quota_sequence, ada, free_upload 2026-11-01: 2 → 3",
    ),
    "a quota that is gone": (
        "DELETE FROM quotas WHERE meter = 'free_upload'",
        "quota_missing, ada, free_upload 2026-11-01: 30 → 0",
    ),
    "a hole in a quota's sequence": (
        f"UPDATE quota_entries SET sequence = 4 WHERE {_UP_2}",
        "quota_gap, ada, ada-up-2, entry 4, free_upload 2026-11-01: 2 → 4",
        "quota_sequence, ada, free_upload 2026-11-01: 4 → 2",
    ),
    "a quota's broken chain": (
        f"UPDATE quota_entries SET used_after = 31 WHERE {_UP_2}",
        "quota_chain, ada, ada-up-2, entry 2, free_upload 2026-11-01: 30 → 31",
    ),
    "a quota entry's amount": (
        f"UPDATE quota_entries SET amount = 21 WHERE {_UP_2}",
        "quota_chain, ada, ada-up-2, entry 2, free_upload 2026-11-01: 31 → 30",
        "quota_used, ada, free_upload 2026-11-01: 31 → 30",
        "upload_amount, ada, ada-up-2: 20 → 21",
    ),
    "a quota entry of an operation that counts nothing": (
        f"UPDATE quota_entries SET {of('ada-bonus')} WHERE {_UP_2}",
        "quota_entry_without_outcome, ada, ada-bonus, entry 2, free_upload 2026-11-01: 0 → 20",
        "upload_without_quota_entry, ada, ada-up-2: 20 → 0",
    ),
    "an upload on the account of another user": (
        "UPDATE operations SET user_id = 'ibu' WHERE reference_id = 'ada-up-2'",
        "quota_entry_account, ada, ada-up-2, entry 2, free_upload 2026-11-01: 9 → 1",
    ),
    "the free units of metered usage": (
        "UPDATE quota_entries SET amount = 2, used_after = 2 WHERE meter = 'page'",
        "quota_used, ada, page 2026-11-01: 2 → 3",
        "record_free, ada, ada-pages: 3 → 2",
    ),
    "metered usage without its quota entry": (
        "DELETE FROM quota_entries WHERE meter = 'page'",
        "quota_sequence, ada, page 2026-11-01: 0 → 1",
        "quota_used, ada, page 2026-11-01: 0 → 3",
        "record_free, ada, ada-pages: 3 → 0",
    ),
}

_NAMES: Corruptions = {
    "a name that is gone": (
        "DELETE FROM payment_names WHERE name = 'ada-pay'",
        "payment_without_name, ada, ada-pay: 1 → 0",
    ),
    "a name of another payment": (
        "UPDATE payment_names SET payment_reference = 'cyd-pay-1' WHERE name = 'ada-pay'",
        "name_without_payment, ada, ada-pay: 1 → 0",
        "payment_without_name, ada, ada-pay: 1 → 0",
    ),
    "a name of another user": (
        "UPDATE payment_names SET user_id = 'ibu' WHERE name = 'ada-pay'",
        "name_without_payment, ibu, ada-pay: 1 → 0",
        "payment_without_name, ada, ada-pay: 1 → 0",
    ),
    "a name that is bound to nothing": (
        "UPDATE payment_names SET payment_reference = NULL, user_id = NULL WHERE name = 'ada-pay'",
        "payment_without_name, ada, ada-pay: 1 → 0",
    ),
    "a waiting event that is gone": (
        "DELETE FROM waiting_events WHERE reference_id = 'cyd-lone'",
        "awaited_without_event, cyd, cyd-lone: 1 → 0",
    ),
    "a waiting event that nobody sent": (
        "UPDATE waiting_events SET reference_id = 'cyd-other' WHERE reference_id = 'cyd-lone'",
        "awaited_without_event, cyd, cyd-lone: 1 → 0",
        "waiting_without_outcome, cyd, cyd-other: 1 → 0",
    ),
    "a waiting event of another user": (
        "UPDATE waiting_events SET user_id = 'ibu' WHERE reference_id = 'cyd-lone'",
        "waiting_without_outcome, ibu, cyd-lone: 1 → 0",
    ),
    "a name that a command gave and that is gone": (
        "DELETE FROM payment_names WHERE name = 'kim-intent-3'",
        "awaited_without_event, account None, kim-late: 1 → 0",
        "names_apart, kim, kim-named: 1 → 2",
    ),
    "a name of a payment to come that isn't the same any more": (
        "UPDATE payment_names SET same_as = NULL WHERE name = 'kim-intent-9'",
        "names_apart, account None, kim-named-early: 1 → 2",
    ),
    "names of a payment to come that are others": (
        "UPDATE payment_names SET same_as = 'kim-pay-9' WHERE name = 'kim-intent-9'",
        "names_apart, account None, kim-named-early: 1 → 2",
    ),
    "an event that waits for a payment that is there": (
        "UPDATE waiting_events SET name = 'cyd-pay-1' WHERE reference_id = 'cyd-lone'",
        "event_not_taken_in, cyd, cyd-lone: 0 → 1",
    ),
}

CORRUPTIONS: Corruptions = {
    **_ACCOUNTS,
    **_FREEZING,
    **_ENTRIES,
    **_OPERATIONS,
    **_LOTS,
    **_HOLDS,
    **_LATE_HOLDS,
    **_REFUNDS,
    **_FREE_REFUNDS,
    **_PAYMENTS,
    **_QUOTAS,
    **_NAMES,
}


#: Of a distributed ledger, where every reference is claimed.
CLAIMS: Corruptions = {
    "a claim that is gone": (
        "DELETE FROM claims WHERE reference_id = 'ada-use'",
        "operation_without_claim, ada, ada-use: 1 → 0",
    ),
    "a claim of another user": (
        "UPDATE claims SET user_id = 'ibu' WHERE reference_id = 'ada-use'",
        "claim_without_outcome, ibu, ada-use: 1 → 0",
        "operation_without_claim, ada, ada-use: 1 → 0",
    ),
    "a claim in the slot of another user": (
        f"UPDATE claims SET slot = {slot_of('ben')} WHERE reference_id = 'ada-use'",
        "claim_without_outcome, ada, ada-use: 1 → 0",
    ),
    "a claim of a reference that nobody used": (
        "UPDATE claims SET reference_id = 'ada-used' WHERE reference_id = 'ada-use'",
        "claim_without_outcome, ada, ada-used: 1 → 0",
        "operation_without_claim, ada, ada-use: 1 → 0",
    ),
    "a reference that was taken from somebody else": (
        "UPDATE claims SET taken_from = NULL WHERE reference_id = 'eve-due-1'",
        "operation_without_claim, nobody, eve-due-1: 1 → 0",
    ),
    "a reference that is claimed for the user who lost it": (
        "UPDATE claims SET user_id = 'ada' WHERE reference_id = 'eve-due-2'",
        "claim_without_outcome, ada, eve-due-2: 1 → 0",
        "operation_without_claim, eve, eve-due-2: 1 → 0",
    ),
}

_CLAIM_ALL = """
INSERT INTO claims (claimed_at, slot, reference_id, user_id, taken_from)
SELECT one.recorded_at, one.slot, one.reference_id, one.user_id, loser.user_id
FROM operations AS one
LEFT JOIN operations AS loser ON loser.reference_id = one.reference_id AND loser.is_taken
WHERE NOT one.is_taken
"""
LATER = datetime(2027, 1, 1, tzinfo=UTC)


def findings(engine: Engine, *statements: str, **options: Any) -> list[str]:
    """Findings in short of the audit after ``statements``, which leave nothing behind."""
    with engine.connect() as connection:
        for statement in statements:
            assert connection.exec_driver_sql(statement).rowcount > 0
        report = audit_snapshot(connection, catalog=CATALOG, **options)
        connection.rollback()
    assert sum(report.found.values()) == len(report.findings)
    return sorted(map(as_text, report.findings))


def apart(corruptions: Corruptions) -> list[tuple[str, ...]]:
    """Divide corruptions into groups for one audit each: in a group, no two have a finding of one user."""
    groups: list[tuple[list[str], set[str]]] = []
    for name, (_, *expected) in corruptions.items():
        users = {finding.split(", ")[1].partition(":")[0] for finding in expected}
        users |= {f"account {number}" for number, user in enumerate(_NAMES_OF_ACCOUNTS, 1) if user in users}
        for names, taken in groups:
            if taken.isdisjoint(users):
                names.append(name)
                taken.update(users)
                break
        else:
            groups.append(([name], users))
    return [tuple(names) for names, _ in groups]


_NAMES_OF_ACCOUNTS = ("ada", "ben", "cyd", "dan", "eve", "fay", "gus", "hal", "ibu", "jan", "kim")


@pytest.mark.parametrize("corrupted", apart(CORRUPTIONS), ids=" + ".join)
def test_audit_finds_the_corruptions_and_nothing_else(
    true_ledger: Engine, corrupted: tuple[str, ...]
) -> None:
    expected = sorted(finding for name in corrupted for finding in CORRUPTIONS[name][1:])
    with true_ledger.connect() as connection:
        for name in corrupted:
            assert connection.exec_driver_sql(CORRUPTIONS[name][0]).rowcount == 1, name
        report = audit_snapshot(connection, catalog=CATALOG)
        connection.rollback()
    assert sorted(map(as_text, report.findings)) == expected
    assert not report.is_clean
    assert sum(report.found.values()) == len(expected)


def test_every_check_is_seen_to_fail() -> None:
    corruptions = [*CORRUPTIONS.values(), *CLAIMS.values()]
    seen = {finding.partition(",")[0] for _, *findings in corruptions for finding in findings}
    assert seen == CHECKS.keys()


# -- claims -----------------------------------------------------------------------------------------------


def test_ledger_whose_references_are_claimed_is_clean(true_ledger: Engine) -> None:
    assert findings(true_ledger, _CLAIM_ALL, claims_before=LATER) == []


@pytest.mark.parametrize("corrupted", CLAIMS)
def test_audit_finds_the_corrupted_claim_and_nothing_else(true_ledger: Engine, corrupted: str) -> None:
    statement, *expected = CLAIMS[corrupted]
    assert findings(true_ledger, _CLAIM_ALL, statement, claims_before=LATER) == expected


def test_ledger_without_claims_needs_none(true_ledger: Engine) -> None:
    assert findings(true_ledger) == []


def test_new_claim_may_wait_for_its_operation(true_ledger: Engine) -> None:
    unused = "UPDATE claims SET reference_id = 'ibu-opened' WHERE reference_id = 'ibu-open'"
    before = OPENED - timedelta(hours=1)
    (found,) = findings(true_ledger, _CLAIM_ALL, unused, claims_before=before)
    assert found == "operation_without_claim, ibu, ibu-open: 1 → 0"


def test_reference_with_a_new_claim_may_wait_for_its_taker(true_ledger: Engine) -> None:
    taken = "UPDATE operations SET is_taken = true WHERE reference_id = 'ada-none'"
    (found,) = findings(true_ledger, _CLAIM_ALL, taken, claims_before=LATER)
    assert found == "taken_without_taker, ada, ada-none: 1 → 0"
    assert findings(true_ledger, _CLAIM_ALL, taken, claims_before=OPENED) == []


# -- divisions --------------------------------------------------------------------------------------------


def test_every_division_of_the_ledger_has_the_same_findings(true_ledger: Engine) -> None:
    all_but_one = sorted(CORRUPTIONS.keys() - {"an entry in a slot that is none"})
    chosen = [CORRUPTIONS[name][0] for name in Random(14).sample(all_but_one, 20)]
    with true_ledger.connect() as connection:
        for statement in (_CLAIM_ALL, *chosen, *(corruption[0] for corruption in CLAIMS.values())):
            with suppress(IntegrityError), connection.begin_nested():  # two may be in each other's way
                connection.exec_driver_sql(statement)
        whole, fifths, slots = (
            audit_snapshot(connection, findings_max=2, claims_before=LATER, shares=shares)
            for shares in (divided(1), divided(5), SLOT_BY_SLOT)
        )
        connection.rollback()
    assert len(whole.found) > 20
    assert whole.unlisted > 0
    assert whole == fifths == slots


# -- names of payments ------------------------------------------------------------------------------------


def test_event_may_wait_some_time_for_a_payment_that_is_there(true_ledger: Engine) -> None:
    statement, finding = _NAMES["an event that waits for a payment that is there"]
    assert findings(true_ledger, statement, waiting_before=LATER) == [finding]
    assert findings(true_ledger, statement, waiting_before=OPENED) == []


def test_event_that_cannot_count_may_wait_for_a_payment_that_is_there(true_ledger: Engine) -> None:
    statement, _ = _NAMES["an event that waits for a payment that is there"]
    stuck = "UPDATE waiting_events SET reason = 'currency_mismatch' WHERE reference_id = 'cyd-lone'"
    assert findings(true_ledger, statement, stuck) == []


@pytest.mark.parametrize("corrupted", sorted(_NAMES.keys() - {"a waiting event that is gone"}))
def test_distributed_ledger_may_be_under_way_with_new_names(true_ledger: Engine, corrupted: str) -> None:
    statement, *_ = _NAMES[corrupted]
    new = [
        one
        for one in findings(
            true_ledger,
            _CLAIM_ALL,
            statement,
            claims_before=OPENED - timedelta(days=90),
            waiting_before=OPENED,
        )
        if one.startswith(
            ("payment_without_name", "waiting_without", "awaited_without", "event_not_taken_in")
        )
    ]
    assert new == []
