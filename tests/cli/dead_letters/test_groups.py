"""``dead-letters groups``: like failures together, and the proof of the counts."""

from tests.cli.console import Cli, FilledLedger
from tests.cli.dead_letters.parts import BONUS, worker
from tests.support.rabbit_client import RabbitClient
from worker import __version__


def test_like_failures_are_one_group(cli: Cli, rabbit: RabbitClient) -> None:
    for number in range(3):
        rabbit.publish(
            {**BONUS, "userId": f"u{number}", "referenceId": f"r{number}", "tokens": 2_000 + number}
        )
    rabbit.publish(b"oops", routing_key="usage.deduct")
    worker(cli, 4)
    ended = cli("dead-letters", "groups", "--order", "count", "--json")
    first, second = ended.json["groups"]
    assert (first["reason"], first["type"], first["waiting"], first["users"]) == (
        "invalid_field",
        "credit.bonus",
        3,
        3,
    )
    assert (first["tokensAtStake"], first["tokensUnknown"]) == (6_003, 0)
    assert (second["reason"], second["waiting"], second["tokensUnknown"]) == ("not_json", 1, 1)
    names, *values = (line.split("\t") for line in cli("dead-letters", "groups").lines)
    assert {dict(zip(names, row, strict=True))["tokens affected"] for row in values} == {"6003", "unknown"}


def test_verify_proves_the_groups(cli: Cli, rabbit: RabbitClient, ledger: FilledLedger) -> None:
    rabbit.publish(BONUS)
    worker(cli)
    ended = cli("dead-letters", "groups", "--verify")
    assert (ended.code, ended.out) == (0, "the groups are what their dead letters add up to\n")
    with ledger.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE dead_letter_groups SET parked = 3, waiting = 3")
    ended = cli("dead-letters", "groups", "--verify")
    assert ended.code == 1
    assert ended.out.endswith(": parked is 3, and must be 1\n")


def test_group_shows_its_senders_versions_and_messages(cli: Cli, rabbit: RabbitClient) -> None:
    for number in range(2):
        rabbit.publish({**BONUS, "referenceId": f"r{number}", "tokenz": 5})
    worker(cli, 2)
    (group,) = cli("dead-letters", "groups", "--json").json["groups"]
    shown = cli("dead-letters", "group", group["fingerprint"][:6], "--json").json
    assert (shown["waiting"], shown["parts"]["lookedAt"]) == (2, 2)
    assert [one["deadLetters"] for one in shown["parts"]["senders"]] == [2]
    rows = cli("dead-letters", "group", group["fingerprint"][:6]).rows
    assert ["2", __version__] in rows
    assert ["waiting", "2"] in rows
