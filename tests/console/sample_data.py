"""Sample ledgers and dead letters: a small realistic set, and a large one with hostile content."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

from sqlalchemy import Engine

from schemas import (
    BonusCredit,
    Command,
    DeadLetterReason,
    DeductUsage,
    OpenAccount,
    PaymentSucceeded,
    RecordUsage,
    ReserveUsage,
)
from tests.deadletters.parts import from_dead_queue
from tests.support.apply_commands import applied
from tests.support.fakes import FakeLink
from worker.broker import BILLING, Delivery
from worker.catalog import Catalog
from worker.deadletters.service import DeadLetters
from worker.ledger.workers import KnownWorker, LaneProgress, WorkerKind, WorkerState
from worker.messages.dead_letters import Failure, dead_letter_for
from worker.messages.policy import Policy
from worker.messages.receiving import message_in

HOSTILE = "<script>alert('x')</script>\"'&amp;{{7*7}}"
#: Reverses the text that follows, so that a name looks like another one.
DECEIVING = "ada\u202egnp.exe"

#: The worker's user, as in the broker URL of a console without a broker.
_POLICY = Policy(user="guest", worker_users=frozenset({"guest"}))

_FEATURES = ("ocr", "summary", "translate", "chat", "export", None)


def dead_queue(dead_letters: Iterable[Delivery]) -> FakeLink:
    """Return a link that consumes these dead letters."""
    return FakeLink(*dead_letters, consume={BILLING.dead.name: 1_000})


def drain(service: DeadLetters, dead_letters: Iterable[Delivery]) -> int:
    """Drain dead letters that a worker with the user of ``service`` has published; return their number."""
    user = service._sent_as
    published = (replace(one, properties={**one.properties, "user_id": user}) for one in dead_letters)
    return service.drain(dead_queue(published), wait_s=0)


def refused(
    body: bytes | dict[str, Any], at: datetime, *, key: str = "usage.deduct", **properties: Any
) -> Delivery:
    """Return the dead letter of a refused message; the reason for a valid message is a bug."""
    octets = body if isinstance(body, bytes) else json.dumps(body).encode()
    queue = "billing.usage" if key.startswith("usage") else "billing.payments"
    headers = properties.pop("headers", {})
    original = Delivery(octets, queue, "billing", key, 1, properties=properties, headers=headers)
    found = message_in(original, Policy(), at)
    reason = found if isinstance(found, Failure) else bug(found, "ZeroDivisionError: division by zero")
    return dead_letter_of(original, reason, at)


def bug(message: Any, text: str) -> Failure:
    """Return the reason for a message that met a fault of ours."""
    traceback = (
        "Traceback (most recent call last):\n"
        '  File "/srv/billing/worker/pipeline.py", line 181, in _settle\n    plan = decide(commands, known)\n'
        '  File "/srv/billing/worker/core/decide.py", line 97, in decide\n    return share / total\n'
        f"{text}\n"
    )
    return Failure.of(message, DeadLetterReason.UNPROCESSABLE, text, traceback=traceback)


def dead_letter_of(original: Delivery, reason: Failure, at: datetime, tries: int = 1) -> Delivery:
    """Return the dead letter as it comes out of its queue."""
    return from_dead_queue(dead_letter_for(original, reason, _POLICY, tries=tries, now=at))


# -- a small set ------------------------------------------------------------------------------------------


def small(engine: Engine, service: DeadLetters, catalog: Catalog, now: datetime) -> None:
    """Fill in a few accounts with a month of entries, and dead letters of one morning."""
    chance = Random(7)
    start = now - timedelta(days=29)
    users = ("ada", "adam", "grace", "linus", "edsger", "barbara")
    commands: list[tuple[datetime, Command]] = [
        (start, OpenAccount(reference_id=f"open-{name}", user_id=name, tier="basic")) for name in users
    ]
    commands += [
        (
            start + timedelta(days=2, minutes=place),
            PaymentSucceeded(
                reference_id=f"pay-{name}",
                user_id=name,
                package_id="standard",
                amount_minor=1_999,
                currency="USD",
                provider="stripe",
            ),
        )
        for place, name in enumerate(users[:4])
    ]
    commands.append(
        (
            start + timedelta(days=9),
            BonusCredit(
                reference_id="welcome-ada",
                user_id="ada",
                tokens=5_000,
                expires_at=now + timedelta(days=9),
                description="Welcome back",
            ),
        )
    )
    commands += list(_usage(chance, users, start, now))
    commands.append(
        (
            now - timedelta(hours=2),
            ReserveUsage(reference_id="hold-ada-1", user_id="ada", tokens=2_500, ttl_seconds=86_400),
        )
    )
    for at, command in sorted(commands, key=lambda pair: pair[0]):
        applied(engine, catalog, command, now=at)
    drain(service, _morning(now))


def _usage(
    chance: Random, users: Sequence[str], start: datetime, now: datetime
) -> Iterable[tuple[datetime, Command]]:
    for day in range(1, 30):
        for number in range(6):
            at = start + timedelta(days=day, seconds=chance.randint(0, 80_000))
            user = users[min(int(chance.expovariate(0.6)), len(users) - 1)]
            at = min(at, now - timedelta(minutes=1))
            yield (
                at,
                DeductUsage(
                    reference_id=f"job-{day}-{number}",
                    user_id=user,
                    tokens=chance.randint(200, 3_500),
                    feature=chance.choice(_FEATURES),
                    occurred_at=at,
                ),
            )
    for minute in range(58):
        for number in range(chance.randint(0, 5)):
            at = now - timedelta(minutes=minute, seconds=chance.randint(1, 59))
            is_too_much = chance.random() < 0.12
            yield (
                at,
                DeductUsage(
                    reference_id=f"now-{minute}-{number}",
                    user_id=chance.choice(users),
                    tokens=90_000_000 if is_too_much else chance.randint(20, 400),
                    feature="ocr",
                    occurred_at=at,
                ),
            )
    for number in range(12):
        at = now - timedelta(days=number * 2, hours=1)
        yield (
            at,
            RecordUsage(
                reference_id=f"pages-{number}",
                user_id="ada",
                meter="ocr",
                quantity=chance.randint(3, 40),
            ),
        )


def _morning(now: datetime) -> list[Delivery]:
    def at(minutes: int) -> datetime:
        return now - timedelta(minutes=minutes)

    dead_letters = [
        refused(
            {"type": "usage.deduct", "referenceId": f"scan-{number}", "userId": user, "tokens": f"{tokens}"},
            at(9 + number),
            app_id="scan-service",
            message_id=f"m-{number}",
        )
        for number, (user, tokens) in enumerate(
            (("ada", 120), ("grace", 480), ("adam", 75), ("ada", 260), ("linus", 910), ("barbara", 33))
        )
    ]
    dead_letters += [
        refused(
            {
                "type": "usage.deduce",
                "referenceId": f"typo-{number}",
                "userId": "grace",
                "tokens": 10 + number,
            },
            at(40 + number),
            key="usage.deduce",
        )
        for number in range(4)
    ]
    dead_letters += [
        refused(
            {"type": "usage.deduct", "referenceId": f"bug-{number}", "userId": "edsger", "tokens": 1_000},
            at(62 + 3 * number),
            headers={"traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"},
        )
        for number in range(3)
    ]
    dead_letters.append(
        refused(
            {
                "type": "payment.succeeded",
                "referenceId": "pay-late",
                "userId": "ada",
                "packageId": "standard",
                "amountMinor": 19.99,
                "currency": "USD",
            },
            at(130),
            key="payment.succeeded",
        )
    )
    dead_letters.append(refused(b"\x00\xff\xfenot a message", at(150), key="usage.deduct"))
    return dead_letters


# -- a large set ------------------------------------------------------------------------------------------


def large(
    engine: Engine,
    service: DeadLetters,
    catalog: Catalog,
    now: datetime,
    groups: int = 300,
    users: int = 150,
    alike: int = 600,
) -> None:
    """Fill in many groups, hostile names and bodies, and one group with many dead letters."""
    names = [f"u-{number:04}" for number in range(users)] + [
        "ä" * 100,
        "日本" * 20,
        "x" * 200,
        "%",
        "a/b?c=d#e&f",
    ]
    names += ["<b>bold</b>", "' OR 1=1 --"]
    for place, name in enumerate(names):
        opening = OpenAccount(reference_id=f"open/{place}", user_id=name, tier="free")
        long = DeductUsage(
            reference_id=f"{'r' * 180}{place}",
            user_id=name,
            tokens=7,
            feature="f" * 64,
            description=HOSTILE,
        )
        applied(engine, catalog, opening, long, now=now - timedelta(days=2, minutes=place))
    drain(service, _hostile(now))
    drain(service, (_odd(number, now) for number in range(groups)))
    drain(service, (_alike(number, now) for number in range(alike)))


def _hostile(now: datetime) -> list[Delivery]:
    return [
        refused(bytes(256 * 1024), now - timedelta(days=1)),
        refused(HOSTILE.encode(), now - timedelta(hours=20)),
        refused(
            {"type": HOSTILE, "referenceId": HOSTILE, "userId": HOSTILE, HOSTILE: HOSTILE},
            now - timedelta(hours=19),
            key=HOSTILE,
            reply_to="amq.rabbitmq.trace",
            headers={HOSTILE: HOSTILE, "x" * 200: "y" * 20_000, "deceiving": DECEIVING},
        ),
        refused(
            {"type": "usage.deduct", "referenceId": "r-1", "userId": DECEIVING, "tokens": 5},
            now - timedelta(hours=18),
        ),
        dead_letter_of(
            Delivery(b"", "billing.usage", "billing", "usage.deduct", 1),
            Failure(
                DeadLetterReason.UNPROCESSABLE,
                HOSTILE * 20,
                HOSTILE,
                HOSTILE * 100,
                HOSTILE,
                HOSTILE,
                HOSTILE,
            ),
            now - timedelta(hours=17),
        ),
        refused("é\n".encode("latin-1") * 50, now - timedelta(hours=16)),
        refused(b'{"a":' * 500 + b"1" + b"}" * 500, now - timedelta(hours=15)),
        refused(json.dumps({"tokens": 10**400}).encode(), now - timedelta(hours=14)),
    ]


def _odd(number: int, now: datetime) -> Delivery:
    """Return a dead letter in a group of its own; its type has letters, as fingerprints ignore digits."""
    name = "".join(chr(ord("a") + int(digit)) for digit in f"{number:04}")
    message = {
        "type": f"usage.{name}",
        "referenceId": f"odd-{number}",
        "userId": f"u-{number:04}",
        "tokens": 5,
    }
    return refused(message, now - timedelta(minutes=number), key=f"usage.{name}")


def _alike(number: int, now: datetime) -> Delivery:
    message = {"type": "usage.deduct", "referenceId": f"like-{number}", "userId": f"u-{number:04}"}
    return refused(message | {"tokens": -1}, now - timedelta(seconds=number))


def known_worker(host: str) -> KnownWorker:
    """A worker that consumes all lanes, and has changed settings."""
    now = datetime.now(UTC)
    return KnownWorker(
        name=f"{host}:1:aa",
        kind=WorkerKind.WORKER,
        host=host,
        pid=1,
        version="0.5.0",
        settings_hash="abcdef0123",
        started_at=now,
        seen_at=now,
        state=WorkerState.CONSUMING,
        settings={"BILLING_SENDERS": {"usage.*": ["x" * 200]}},
        lanes={queue.name: LaneProgress(5, 1.0, now) for queue in BILLING.work},
        last_batch_at=now,
        last_batch_size=3,
    )
