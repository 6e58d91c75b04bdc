"""Mixed messages whose outcomes don't depend on their order.

No user's tokens run out, no hold has two ends and nothing is sent twice on purpose, so any number of workers
may take the messages in any batches, and again after a crash: codes, balances and notices are those of the
one-by-one model. The ledger has the payments and holds that others need before the first message.
"""

import json
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from itertools import count, islice
from typing import Any

from sqlalchemy import Engine

from schemas import (
    Command,
    DeductUsage,
    OpenAccount,
    PaymentSucceeded,
    ReserveUsage,
)
from schemas.usage import HOLD_MAX_SECONDS
from worker.catalog import load_catalog
from worker.core import decide
from worker.ledger.store import Ledger

Message = dict[str, Any]
USERS = tuple(f"user-{number}" for number in range(24))


#: Users for tens of thousands of messages, see ``ExpectedState``.
MANY_USERS = tuple(f"user-{number}" for number in range(1_200))
_MUCH = 10**12


#: The prefixes whose first messages find holds that they can end; how often, of each kind.
_PREFIXES = ("m", "n")
_ROUNDS = 20


def mixed(*, prefix: str = "m", users: Sequence[str] = USERS) -> Iterator[Message]:
    """Yield messages of many types without end; some are rejected, none is malformed.

    The number of ``users`` must not divide by that of the kinds: everybody has some of everything.
    """
    soon = (datetime.now(UTC) + timedelta(days=3)).isoformat()
    for number in count():
        reference_id, user_id = f"{prefix}-{number}", users[number % len(users)]
        message = {"referenceId": reference_id, "userId": user_id, **_KINDS[number % len(_KINDS)]}
        if "originalReferenceId" in message:
            names = {"user": user_id, "reference": reference_id}
            message["originalReferenceId"] = message["originalReferenceId"].format_map(names)
        if message["type"] == "account.open" or "openTier" in message:
            message["userId"] = f"{prefix}-new-{number}"
        match message:
            case {"type": "usage.batch", "items": items}:
                message["items"] = [
                    {"referenceId": f"{reference_id}/{place}", **item} for place, item in enumerate(items)
                ]
            case {"type": "credit.bonus", "expiresAt": _}:
                message["expiresAt"] = soon
        yield message


_KINDS: tuple[Message, ...] = (
    {"type": "usage.deduct", "tokens": 7, "feature": "chat"},
    {"type": "credit.bonus", "tokens": 4, "expiresAt": "soon"},  # brings a notice
    {"type": "payment.succeeded", "packageId": "standard", "amountMinor": 1_999, "currency": "USD"},
    {
        "type": "usage.batch",
        "items": [
            {"type": "usage.deduct", "tokens": 2, "feature": "search"},
            {"type": "usage.record", "meter": "ocr", "quantity": 1},
            {"type": "usage.deduct", "tokens": _MUCH},
            {"type": "usage.free_upload", "bytes": 4_096},
        ],
    },
    {"type": "usage.settle", "originalReferenceId": "hold-{reference}", "tokens": 3, "feature": "chat"},
    {"type": "usage.free_upload", "bytes": 1_048_576},
    {"type": "usage.deduct", "tokens": _MUCH},
    {"type": "credit.bonus", "tokens": 5},
    {"type": "usage.record", "meter": "ocr", "quantity": 2},
    {"type": "payment.succeeded", "packageId": "no-such", "amountMinor": 1_999, "currency": "USD"},
    {"type": "usage.release", "originalReferenceId": "hold-{reference}"},
    {"type": "usage.extend", "originalReferenceId": "hold-{reference}", "ttlSeconds": HOLD_MAX_SECONDS},
    {"type": "usage.extend", "originalReferenceId": "never-{user}", "ttlSeconds": 60},
    {"type": "usage.deduct", "tokens": 8, "openTier": "basic"},
    {"type": "usage.deduct", "tokens": _MUCH, "openTier": "basic"},
    {"type": "credit.bonus", "tokens": 6, "openTier": "free", "expiresAt": "soon"},
    {"type": "usage.deduct", "tokens": 13},
    {"type": "credit.refund", "tokens": 3, "originalReferenceId": "used-{user}"},
    {"type": "credit.refund", "tokens": 3},
    {"type": "usage.deduct", "tokens": 1, "userId": "nobody"},
    {
        "type": "payment.refunded",
        "originalReferenceId": "paid-{user}",
        "amountMinor": 1,
        "currency": "USD",
    },
    {"type": "usage.reserve", "tokens": 2, "ttlSeconds": HOLD_MAX_SECONDS},
    {"type": "account.open", "tier": "basic"},
    {"type": "usage.record", "meter": "upload", "quantity": 1_048_576},
    {"type": "payment.failed", "originalReferenceId": "never-{user}"},
    {"type": "credit.adjust", "tokens": 2, "reason": "a slip", "actor": "ann"},
    {"type": "usage.deduct", "tokens": 11},
    {"type": "account.settle"},
    {"type": "subscription.change", "tier": "pro"},
)


def _before(users: Sequence[str]) -> Iterator[Command]:
    """Yield the commands that precede the first message."""
    for user in users:
        yield OpenAccount(reference_id=f"open-{user}", user_id=user, tier="pro")
        yield DeductUsage(reference_id=f"used-{user}", user_id=user, tokens=100_000)
        yield PaymentSucceeded(
            reference_id=f"paid-{user}", user_id=user, package_id="max", amount_minor=29_999, currency="USD"
        )
    for prefix in _PREFIXES:
        for message in islice(mixed(prefix=prefix, users=users), _ROUNDS * len(_KINDS)):
            if message.get("originalReferenceId", "").startswith("hold-"):
                yield ReserveUsage(
                    reference_id=message["originalReferenceId"],
                    user_id=message["userId"],
                    tokens=5,
                    ttl_seconds=HOLD_MAX_SECONDS,
                )


def open_accounts(engine: Engine, users: Sequence[str] = USERS) -> list[Message]:
    """Open accounts directly in the ledger; return the equivalent messages."""
    commands = list(_before(users))
    now = datetime.now(UTC)
    with Ledger(engine).begin(commands, now) as transaction:
        known = transaction.known
        transaction.write(decide(commands, known, now, load_catalog()))
    return [json.loads(command.to_json()) for command in commands]
