"""Hostile bodies are refused in bounded time: families of them at all sizes, and mutations of good ones.

A machine's speed is not known here: the unit is what the largest good batch costs on it, about 5 ms.
"""

import json
import random
import time
from collections.abc import Callable, Iterator
from itertools import count, islice
from typing import Any

import pytest

from schemas import Malformed, decode
from schemas.decoding import BODY_MAX_BYTES
from schemas.parsing import CONTAINERS_MAX
from schemas.usage import BATCH_MAX_ITEMS
from tests.support.message_bodies import MINIMAL, refusal_of
from tests.support.strategies import LIMITS, NOW

#: Most that any body may cost, in good batches. Measured: below 2, up to 4 beside other work that takes the
#: caches; without bounds it was 9 to 40.
BOUND = 6
_TRIES = 3

DEDUCT = '{"type":"usage.deduct","referenceId":"r","userId":"u","tokens":5,'
BATCH = '{"type":"usage.batch","referenceId":"b","userId":"u","items":['
Piece = Callable[[int], str]


def cost_of(body: bytes) -> float:
    """Seconds of this thread's processor for one decoding."""
    start = time.thread_time()
    decode(body, now=NOW, limits=LIMITS)
    return time.thread_time() - start


def least_cost_of(body: bytes, tries: int = _TRIES) -> float:
    return min(cost_of(body) for _ in range(tries))


def filled(size: int, before: str, piece: Piece, after: str, most: int | None = None) -> bytes:
    """As many pieces between commas as fit into so many bytes, and no more than ``most``."""
    room = size - len(before) - len(after)
    pieces: list[str] = []
    for number in count():
        one = piece(number)
        room -= len(one.encode("utf-8", "surrogatepass")) + 1
        if room < 0 or len(pieces) == most:
            break
        pieces.append(one)
    return (before + ",".join(pieces) + after).encode("utf-8", "surrogatepass")


def item(number: int, rest: str) -> str:
    return f'{{"type":"usage.deduct","referenceId":"{number}","tokens":5{rest}}}'


def many(text: str, times: int = 16) -> str:
    """``text`` under so many names."""
    return ",".join(f'"{number:x}":{text}' for number in range(times))


GOOD_ITEM = ',"feature":"ocr","description":"page 7, read at night","metadata":{%s}' % many('"some text"', 8)  # noqa: UP031 - braces

#: Name, what comes before, the pieces, what comes after, and most pieces.
FAMILIES: dict[str, tuple[str, Piece, str, int | None]] = {
    "unknown fields": (DEDUCT, lambda n: f'"{n:x}":1', "}", None),
    "unknown fields with objects": (DEDUCT, lambda n: f'"{n:x}":{{}}', "}", None),
    "unknown fields with surrogates": (DEDUCT, lambda n: f'"\\ud800{n:x}":1', "}", None),
    "unknown fields like known ones": (DEDUCT, lambda n: f'"tokens{n:x}":1', "}", None),
    "unknown fields and no type": ("{", lambda n: f'"{n:x}":1', "}", None),
    "a long field name": (DEDUCT + '"', lambda _: "tokens", '":1}', None),
    "a long type": ('{"type":"', lambda _: "é", '"}', None),
    "objects in the type": ('{"type":[', lambda _: "{}", "]}", None),
    "objects": (DEDUCT + '"metadata":{"a":[', lambda _: "{}", "]}}", None),
    "arrays": (DEDUCT + '"metadata":{"a":[', lambda _: "[]", "]}}", None),
    "deep arrays": (DEDUCT + '"metadata":{"a":[', lambda _: "[" * 800 + "]" * 800, "]}}", None),
    "deep objects": (DEDUCT + '"metadata":{"a":[', lambda _: '{"a":' * 60 + "1" + "}" * 60, "]}}", None),
    "texts with brackets": (DEDUCT + '"metadata":{"a":[', lambda _: '"{["', "]}}", None),
    "texts with escaped quotes": (DEDUCT + '"metadata":{"a":[', lambda _: '"\\"{\\\\"', "]}}", None),
    "numbers": (DEDUCT + '"metadata":{"a":[', lambda _: "0", "]}}", None),
    "fractions": (DEDUCT + '"metadata":{"a":[', lambda _: "1e5", "]}}", None),
    "long fractions": (DEDUCT + '"metadata":{"a":[', lambda _: "0." + "123456789" * 9, "]}}", None),
    "numbers of 4,300 digits": (DEDUCT + '"metadata":{"a":[', lambda _: "9" * 4_300, "]}}", None),
    "a long number": (DEDUCT + '"attempt":1', lambda _: "9", "}", None),
    "metadata keys": (DEDUCT + '"metadata":{', lambda n: f'"{n:x}":1', "}}", None),
    "metadata keys with fractions": (DEDUCT + '"metadata":{', lambda n: f'"{n:x}":1.5', "}}", None),
    "a long metadata key": (DEDUCT + '"metadata":{"', lambda _: "é", '":1}}', None),
    "a long metadata value": (DEDUCT + '"metadata":{"a":"', lambda _: "\u200d", '"}}', None),
    "a long reference": ('{"type":"usage.deduct","referenceId":"', lambda _: "😀", '"}', None),
    "a long user": (DEDUCT[:-1] + ',"userId":"', lambda _: "\u00a0", '"}', None),
    "a long description": (DEDUCT + '"description":"', lambda _: "\\u0000", '"}', None),
    "a long time": (DEDUCT + '"occurredAt":"', lambda _: "2026-11-22T10:15:00", '"}', None),
    "a field given twice at the end": ("{", lambda n: f'"{n:x}":1', ',"0":1}', None),
    "empty items": (BATCH, lambda _: "{}", "]}", None),
    "too many items": (BATCH, lambda n: item(n, ""), "]}", None),
    "numbers for items": (BATCH, lambda _: "1", "]}", BATCH_MAX_ITEMS),
    "items of no type": (BATCH, lambda _: '{"type":"x"}', "]}", BATCH_MAX_ITEMS),
    "items without fields": (BATCH, lambda _: '{"type":"usage.record"}', "]}", BATCH_MAX_ITEMS),
    "items with bad fields": (
        BATCH,
        lambda n: item(n, ',"feature":"","attempt":0,"occurredAt":"","description":5,"metadata":5'),
        "]}",
        BATCH_MAX_ITEMS,
    ),
    "items of the future": (
        BATCH,
        lambda n: item(n, ',"occurredAt":"2099-01-01T00:00:00Z"'),
        "]}",
        BATCH_MAX_ITEMS,
    ),
    "items with a misspelt field": (BATCH, lambda n: item(n, f',"tokns{n:x}":5'), "]}", BATCH_MAX_ITEMS),
    "items with unknown fields": (BATCH, lambda n: item(n, "," + many("1")), "]}", BATCH_MAX_ITEMS),
    "items with fields given twice": (
        BATCH,
        lambda n: item(n, "," + many("1", 12) + ',"tokens":6'),
        "]}",
        BATCH_MAX_ITEMS,
    ),
    "items with fractions in metadata": (
        BATCH,
        lambda n: item(n, ',"metadata":{' + many("1.5") + "}"),
        "]}",
        BATCH_MAX_ITEMS,
    ),
    "items with control characters in metadata": (
        BATCH,
        lambda n: item(n, ',"metadata":{' + many('"\\n"') + "}"),
        "]}",
        BATCH_MAX_ITEMS,
    ),
    "items with bad metadata keys": (
        BATCH,
        lambda n: item(n, ',"metadata":{' + ",".join(f'" {key:x}":1' for key in range(16)) + "}"),
        "]}",
        BATCH_MAX_ITEMS,
    ),
    "items that are good": (BATCH, lambda n: item(n, GOOD_ITEM), "]}", BATCH_MAX_ITEMS),
    "items that are good and no end": (BATCH, lambda n: item(n, GOOD_ITEM), "]", BATCH_MAX_ITEMS),
}

LARGEST = filled(BODY_MAX_BYTES, BATCH, lambda n: item(n, GOOD_ITEM), "]}", BATCH_MAX_ITEMS)


def of_family(name: str, size: int) -> bytes:
    before, piece, after, most = FAMILIES[name]
    if name.startswith("a long"):  # one value, without the commas
        unit = piece(0)
        room = (size - len(before) - len(after)) // len(unit.encode("utf-8", "surrogatepass"))
        return (before + unit * room + after).encode("utf-8", "surrogatepass")
    return filled(size, before, piece, after, most)


def any_value(rng: random.Random, depth: int = 0) -> Any:
    """A JSON value, often hostile."""
    scalars: list[Any] = [
        *(None, True, -1, 0, 1.5, 2**64, 10**400, "", " ", "\ud800", "\x00", "u", "usage.deduct"),
        *("x" * rng.choice((65, 201, 501, 20_000)), "é\u200d" * rng.randrange(2_000), "2026-11-22T10:15:00Z"),
    ]
    match rng.randrange(10):
        case 0 if depth < 40:
            return [any_value(rng, depth + 1) for _ in range(rng.randrange(1, 4))]
        case 1 if depth < 40:
            return {any_name(rng): any_value(rng, depth + 1) for _ in range(rng.randrange(4))}
        case 2 if depth < 2:
            return dict.fromkeys(map(str, range(rng.choice((17, 100, 3_000)))), rng.choice(scalars[:8]))
        case 3 if depth < 2:
            return [rng.choice(scalars[:8])] * rng.choice((17, 100, 3_000))
    return rng.choice(scalars)


def any_name(rng: random.Random) -> str:
    known = ("type", "referenceId", "userId", "tokens", "items", "metadata", "occurredAt", "description")
    strange = ("tokns", "reference_id", "", "\ud800", "x" * 300, f"f{rng.randrange(10**6)}")
    return rng.choice(known + strange)


def mutated(rng: random.Random) -> bytes:
    """A good message or batch with some of its values, names and bytes changed."""
    message: dict[str, Any] = json.loads(json.dumps(rng.choice(list(MINIMAL.values()))))
    if rng.random() < 0.5:
        items = [
            {**MINIMAL["usage.deduct"], "referenceId": f"i-{n}", "metadata": {"page": n}}
            for n in range(rng.choice((1, 3, 30, 300, 1_000)))
        ]
        message = {**MINIMAL["usage.batch"], "items": items}
        change, share = (any_name(rng), any_value(rng)), rng.choice((0.01, 0.5, 1.0))
        room = BODY_MAX_BYTES // len(json.dumps(change))
        for one in items[: room + 1]:
            if rng.random() < share:
                one[change[0]] = change[1]
    for _ in range(rng.randrange(3)):
        message[any_name(rng)] = any_value(rng)
    body = json.dumps(message, ensure_ascii=rng.random() < 0.5).encode("utf-8", "surrogatepass")
    for _ in range(rng.choice((0, 0, 1, 2))):
        at = rng.randrange(len(body))
        put = rng.choice((b"", b'"', b"\\", b"{", b"]", b",", b"NaN", b"[" * 500, b"\xff"))
        body = body[:at] + put + body[at + rng.randrange(3) :]
    return body[:BODY_MAX_BYTES]


def bodies(seed: int) -> Iterator[tuple[str, bytes]]:
    """Hostile bodies without end, the same for the same seed: half of a family, half mutated."""
    rng = random.Random(seed)
    names = list(FAMILIES)
    while True:
        name = rng.choice(names)
        size = int(2 ** rng.uniform(6, 18))
        yield name, of_family(name, max(size, 200))
        yield "mutated", mutated(rng)


def worst_of(some: Iterator[tuple[str, bytes]]) -> tuple[float, str, bytes]:
    """The costliest body with its least cost; a body is tried again before it is called costly."""
    worst = (0.0, "", b"")
    for name, body in some:
        if (cost := cost_of(body)) > worst[0] and (cost := min(cost, least_cost_of(body))) > worst[0]:
            worst = (cost, name, body)
    return worst


@pytest.fixture(scope="module")
def unit() -> float:
    """Cost of the largest good batch on this machine, in seconds."""
    assert not isinstance(decode(LARGEST, now=NOW, limits=LIMITS), Malformed)
    return least_cost_of(LARGEST, 15)


@pytest.mark.parametrize("name", FAMILIES)
def test_largest_body_of_a_family_costs_no_more_than_some_good_batches(name: str, unit: float) -> None:
    body = of_family(name, BODY_MAX_BYTES)
    assert len(body) <= BODY_MAX_BYTES
    assert least_cost_of(body) < BOUND * unit


def test_fuzzed_bodies_cost_no_more_than_some_good_batches(unit: float) -> None:
    cost, name, body = worst_of(islice(bodies(1), 600))
    assert cost < BOUND * unit, (name, cost, body[:200])


@pytest.mark.slow
@pytest.mark.timeout(3_600)
def test_hundred_thousand_fuzzed_bodies_cost_no_more_than_some_good_batches(
    unit: float, record_property: Callable[[str, object], None]
) -> None:
    cost, name, body = worst_of(islice(bodies(2), 100_000))
    record_property("worst", f"{name}: {cost * 1000:.1f} ms, {cost / unit:.1f} good batches")
    assert cost < BOUND * unit, (name, cost, body[:200])


def test_batch_of_too_many_items_is_refused_by_its_name() -> None:
    """This is the longest one that fits: its sender still learns which message it was."""
    longest = filled(BODY_MAX_BYTES, BATCH, lambda n: item(n, ',"metadata":{}'), "]}")
    assert longest.count(b"{") < CONTAINERS_MAX
    refused = refusal_of(longest)
    assert (refused.reason, refused.field, refused.reference_id) == ("invalid_field", "items", "b")


def test_brackets_in_texts_are_no_containers() -> None:
    texts = '"' + "[{" * 250 + '\\"\\\\"'
    body = filled(BODY_MAX_BYTES, BATCH, lambda n: item(n, f',"description":{texts}'), "]}", BATCH_MAX_ITEMS)
    assert body.count(b"{") + body.count(b"[") > CONTAINERS_MAX
    batch = decode(body, now=NOW, limits=LIMITS)
    assert not isinstance(batch, Malformed), batch


@pytest.mark.parametrize("containers", ["{}", "[]"])
def test_more_containers_than_any_message_has_are_refused_unparsed(containers: str) -> None:
    body = filled(BODY_MAX_BYTES, '{"type":[', lambda _: containers, "]}")
    refused = refusal_of(body)
    assert (refused.reason, refused.field) == ("invalid_field", None)
    assert f"more than {CONTAINERS_MAX} objects and arrays" in refused.message
