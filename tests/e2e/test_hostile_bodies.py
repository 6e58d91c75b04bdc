"""Bodies that are slow to decode on purpose: each is a dead letter, and their neighbours get replies."""

import json
from collections import Counter

from schemas import DeadLetter
from schemas.decoding import BODY_MAX_BYTES
from tests.support.rabbit_client import RabbitClient
from tests.support.worker_thread import running
from worker.bootstrap import Application
from worker.broker import BILLING

_FILLED = BODY_MAX_BYTES - 200
_ITEM = '{"type":"usage.deduct","referenceId":"r","tokens":-1,"metadata":{"a":[],"b":[],"c":[]}}'

#: What cost between 0.02 and 1 s of processor a body, and the reason code of its dead letter.
HOSTILE = {
    "unknown fields": (
        '{"type":"usage.deduct",' + ",".join(f'"f{n}":{n}' for n in range(17_000)) + "}",
        "unknown_field",
    ),
    "one long field": ('{"type":"usage.deduct","' + "tokns" * (_FILLED // 5) + '":1}', "unknown_field"),
    "empty items": (
        '{"type":"usage.batch","referenceId":"b","items":[' + ",".join(["{}"] * 80_000) + "]}",
        "invalid_field",
    ),
    "deep arrays": ('{"type":' + "[" * 100_000, "too_deep"),
    "long type": ('{"type":"' + "x" * _FILLED + '"}', "unknown_type"),
    "long reference": (
        '{"type":"usage.deduct","userId":"u","tokens":1,"referenceId":"' + "r" * _FILLED + '"}',
        "invalid_field",
    ),
    "digits": ('{"type":"usage.deduct","tokens":' + "9" * _FILLED + "}", "invalid_field"),
}
#: A batch of malformed items is answered item by item.
MALFORMED_ITEMS = (
    '{"type":"usage.batch","referenceId":"b","userId":"u","items":[' + ",".join([_ITEM] * 1_000) + "]}"
)


def test_hostile_bodies_become_dead_letters_and_their_neighbours_get_replies(
    application: Application, rabbit: RabbitClient
) -> None:
    expected: Counter[str] = Counter()
    with running(application):
        for _ in range(10):
            for body, reason in HOSTILE.values():
                assert len(body) <= BODY_MAX_BYTES
                rabbit.publish(body.encode(), routing_key="usage.deduct", reply_to=None)
                expected[reason] += 1
        opened = rabbit.request({"type": "account.open", "referenceId": "o", "userId": "ann", "tier": "free"})
        assert opened["status"] == "applied"
        deduct = {"type": "usage.deduct", "referenceId": "d", "userId": "ann", "tokens": 5}
        assert rabbit.request(deduct)["status"] == "applied"
        reply = rabbit.request(json.loads(MALFORMED_ITEMS))
        assert (reply["applied"], reply["failed"], len(reply["items"])) == (0, 1_000, 1_000)
        expected[reply["items"][0]["reason"]] += 1
        dead_letters = rabbit.take(BILLING.dead.name, expected.total())
    found = Counter(DeadLetter.from_headers(properties.headers).reason for properties, _ in dead_letters)
    assert found == expected
    assert rabbit.depth(BILLING.dead.name) == 0
