"""One reading of the broker's URL: the TypeScript client and the worker find the same in it."""

import json
import random
from typing import Any

import pytest

from tests.typescript.npm_package import run
from worker.addresses import BrokerAddress

SEED, TEXTS = 17, 3_000
BEGINNINGS = ("amqp://", "amqps://u:p@", "amqp://u:p@a", "")
PIECES = """
    amqp:// amqps:// pyamqp:// AMQP:// u:p@ u:p@ u@ @ a b x :7 :70000 :1:2 : , ; / /v ? ?? # + é % %40 %2C
    %C3%A4 [::1] ?heartbeat=9 ?heartbeat= ?cacertfile=/x &verify=verify_peer ?keyfile=x amqp://u:p@a ,amqp://u:p@b
""".split()  # noqa: SIM905 - readable so
PROGRAM = """
import { readFileSync } from "node:fs";
import { addressOf } from "./dist/addresses.js";
const found = JSON.parse(readFileSync(process.argv[1], "utf8")).map((text) => {
  try {
    const { isSecure, nodes, user, password, vhost, options } = addressOf(text);
    return [isSecure, nodes.map(({ hostname, port }) => [hostname, port]), user, password, vhost, options];
  } catch (error) {
    if (error.name !== "BillingConfiguration") throw error;
    return null;
  }
});
console.log(JSON.stringify(found));
"""


@pytest.mark.usefixtures("compiled")
def test_client_and_worker_find_the_same_in_a_url(tmp_path_factory: pytest.TempPathFactory) -> None:
    chance = random.Random(SEED)
    pieces = (*PIECES, " ", ", ")
    texts = [
        chance.choice(BEGINNINGS) + "".join(chance.choices(pieces, k=chance.randint(0, 6)))
        for _ in range(TEXTS)
    ]
    given = tmp_path_factory.mktemp("addresses") / "texts.json"
    given.write_text(json.dumps(texts), encoding="utf-8")
    found = json.loads(run("node", "--input-type=module", "-e", PROGRAM, str(given)))
    expected = [of_worker(text) for text in texts]
    assert dict(zip(texts, found, strict=True)) == dict(zip(texts, expected, strict=True))
    assert sum(one is not None for one in expected) > TEXTS / 10


def of_worker(text: str) -> list[Any] | None:
    try:
        address = BrokerAddress.parse(text)
    except ValueError:
        return None
    nodes = [[node.host, node.port] for node in address.nodes]
    return [
        address.is_secure,
        nodes,
        address.user,
        address.password,
        address.vhost,
        dict(address.options),
    ]
