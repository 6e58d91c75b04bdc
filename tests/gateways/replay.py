"""Replay tables: payload shapes by gateway, after the public types, each with its commands or its reason."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from worker.gateways import (
    Mapped,
    PaddleRules,
    PaymentSource,
    StripeRules,
    TableResolver,
    map_paddle,
    map_stripe,
)

GATEWAYS = ("stripe", "paddle")
PAYLOADS = Path(__file__).with_name("payloads")

RESOLVER = TableResolver(
    packages={"price_Standard": "standard", "pri_Standard": "standard", "pri_Plus": "plus"},
    tiers={
        "price_Pro": "pro",
        "price_Basic": "basic",
        "pro plan/2017": "pro",
        "pri_Pro": "pro",
        "pri_Basic": "basic",
    },
    customers={"cus_Ada": "ada", "ctm_Ada": "ada"},
)


@dataclass(frozen=True)
class EventCase:
    """Row of a table. ``rules`` are those that differ from the default."""

    gateway: str
    name: str
    event: Any
    rules: dict[str, Any]
    commands: list[dict[str, Any]]
    reason: str | None

    def mapped(self) -> Mapped:
        """Return the result of the mapper."""
        return mapper_of(self.gateway, **self.rules)(self.event)


def mapper_of(gateway: str, **rules: Any) -> Callable[[Any], Mapped]:
    """Return the mapper of a gateway by the rules of the tables."""
    if gateway == "paddle":
        return lambda event: map_paddle(event, PaddleRules(RESOLVER, **rules))
    source = PaymentSource(rules.get("source", PaymentSource.PAYMENT_INTENT))
    return lambda event: map_stripe(event, StripeRules(RESOLVER, source))


@cache
def replay_cases(gateway: str) -> tuple[EventCase, ...]:
    """Return the table of a gateway."""
    rows = json.loads((PAYLOADS / f"{gateway}.json").read_text(encoding="utf-8"))
    return tuple(
        EventCase(
            gateway,
            row["case"],
            row["event"],
            row.get("rules", {}),
            row.get("commands", []),
            row.get("reason"),
        )
        for row in rows
    )


def all_cases() -> tuple[EventCase, ...]:
    """Return the tables of all gateways."""
    return tuple(case for gateway in GATEWAYS for case in replay_cases(gateway))
