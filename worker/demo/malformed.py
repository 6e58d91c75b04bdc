"""Malformed messages as seen in practice, one for each way to be malformed."""

import json
from datetime import datetime, timedelta
from typing import Any

from schemas import DeductUsage, UsageBatch, type_of
from schemas.decoding import BODY_MAX_BYTES


def malformed_variants(command: DeductUsage, now: datetime) -> list[tuple[str, str, bytes]]:
    """Return malformed variants of ``command``: (name, routing key, body)."""
    fields: dict[str, Any] = json.loads(command.to_json())
    text = json.dumps(fields)

    def but(**changes: Any) -> bytes:
        return json.dumps(fields | changes).encode()

    def without(name: str) -> bytes:
        return json.dumps({key: value for key, value in fields.items() if key != name}).encode()

    key, batch = command.type, type_of(UsageBatch)
    no_list = {"type": batch, "referenceId": f"{command.reference_id}-batch", "items": fields}
    return [
        ("not JSON", key, b"please take 5 tokens from bob"),
        ("cut short", key, text[: len(text) // 2].encode()),
        ("empty", key, b""),
        ("not an object", key, f"[{text}]".encode()),
        ("not UTF-8", key, but(description="?").replace(b"?", b"Gr\xfc\xdfe")),
        ("byte order mark", key, b"\xef\xbb\xbf" + text.encode()),
        ("fractional tokens", key, but(tokens=12.5)),
        ("tokens in quotes", key, but(tokens="500")),
        ("true for tokens", key, but(tokens=True)),
        ("no tokens at all", key, but(tokens=None)),
        ("negative", key, but(tokens=-500)),
        ("NaN", key, but(tokens=float("nan"))),
        ("too large a number", key, but(tokens=10**30)),
        ("items not a list", batch, json.dumps(no_list).encode()),
        ("unknown type", "usage.debit", but(type="usage.debit")),
        ("missing field", key, without("userId")),
        ("unknown field", key, but(token=500)),
        ("duplicate field", key, text[:-1].encode() + b', "tokens": 1}'),
        ("time without offset", key, but(occurredAt=f"{now:%Y-%m-%dT%H:%M:%S}")),
        ("future time", key, but(occurredAt=(now + timedelta(days=400)).isoformat())),
        ("control character", key, but(userId="bob\x00")),
        ("nested too deeply", key, b"[" * 100_000),
        ("oversized", key, but(description="x" * BODY_MAX_BYTES)),
        ("other routing key", "usage.free_upload", text.encode()),
    ]
