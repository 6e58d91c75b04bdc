"""``dead-letters replay list``, ``show``, ``pause``, ``resume`` and ``cancel``; replays in steps."""

from tests.cli.console import Cli
from tests.cli.dead_letters.parts import BONUS, dead_letters, replayed, the_dead_letter, worker, working
from tests.support.rabbit_client import RabbitClient


def test_replay_without_a_worker_is_paused_and_can_be_resumed(cli: Cli, rabbit: RabbitClient) -> None:
    rabbit.publish(BONUS)
    worker(cli)
    ended = cli("dead-letters", "replay", "1", "--reason", "none", "--patience", "0.2")
    assert (ended.code, ended.out) == (1, "replay 1 is paused: 1 sent\n")
    assert "no outcome of 1 dead letter within 0 s; is a worker running?" in ended.err
    assert "dead-letters replay resume 1" in ended.err
    assert the_dead_letter(cli)["status"] == "replaying"
    with working(cli):
        resumed = cli("dead-letters", "replay", "resume", "1")
    assert (resumed.code, resumed.out) == (0, "replay 1 is finished: 1 applied\n")


def test_replay_in_steps_stops_by_itself_when_one_fails(cli: Cli, rabbit: RabbitClient) -> None:
    for number, tokens in enumerate((2_000, 2_000, 9_000, 2_000)):
        rabbit.publish(BONUS | {"referenceId": f"bonus-{number}", "tokens": tokens})
    worker(cli, 4)
    (group,) = cli("dead-letters", "groups", "--json").json["groups"]
    digits = group["fingerprint"][:6]
    ended = replayed(cli, "--group", digits, "--yes", "--canary", "1,1,1", "--rate", "100/s")
    assert ended.code == 1
    assert ended.out == "replay 1 is stopped: 1 waiting, 2 applied, 1 failed again\n"
    assert "step 3 of 4: 1 failed again." in ended.err
    with working(cli):
        resumed = cli("dead-letters", "replay", "resume", "1")
    assert resumed.out == "replay 1 is finished: 3 applied, 1 failed again\n"


def test_replays_are_listed_shown_and_cancelled(cli: Cli, rabbit: RabbitClient) -> None:
    for number in range(2):
        rabbit.publish(BONUS | {"referenceId": f"bonus-{number}"})
    worker(cli, 2)
    cli(
        "dead-letters",
        "replay",
        "1",
        "2",
        "--canary",
        "1",
        "--reason",
        "a try",
        "--patience",
        "0",
        "--actor",
        "eva",
    )
    (listed,) = cli("dead-letters", "replay", "list", "--json").json["replays"]
    assert (listed["state"], listed["actor"], listed["reason"], listed["steps"]) == (
        "paused",
        "eva",
        "a try",
        [1],
    )
    names, values = (line.split("\t") for line in cli("dead-letters", "replay", "list").lines)
    assert dict(zip(names, values, strict=True))["results"] == "1 waiting, 1 sent"
    fields = dict(line.split("\t") for line in cli("dead-letters", "replay", "show", "1").lines)
    assert (fields["state"], fields["step"], fields["dead letters"]) == ("paused", "1 of 2", "2")
    assert cli("dead-letters", "replay", "pause", "1").code == 1
    cancelled = cli("dead-letters", "replay", "cancel", "1", "--reason", "a slip")
    assert cancelled.out == "replay 1 is cancelled: 1 sent, 1 skipped\n"
    assert cli("dead-letters", "replay", "resume", "1").code == 1
    worker(cli, most=5_000)
    assert [dead_letter["number"] for dead_letter in dead_letters(cli)] == [2], (
        "the drain sees that 1 was applied"
    )
    assert cli("dead-letters", "replay", "show", "9").code == 4


def test_replay_stops_on_rejections_which_are_shown_and_exported(cli: Cli, rabbit: RabbitClient) -> None:
    for number in range(2):
        rabbit.publish(
            {"type": "usage.deduct", "referenceId": f"r-{number}", "userId": "ann", "tokens": 50_000}
        )
    worker(cli, 2)
    ended = replayed(cli, "1", "2", "--canary", "1", "--stop-on", "rejected=2%", most=60_000)
    assert (ended.code, ended.out) == (1, "replay 1 is stopped: 1 waiting, 1 rejected\n")
    assert "1 of 1 rejected: the limit is rejected=2%" in ended.err
    assert "it ran for " in ended.err
    fields = dict(row[:2] for row in cli("dead-letters", "replay", "show", "1").rows if len(row) > 1)
    assert (fields["tokens rejected"], fields["stops on"]) == ("50,000", "rejected=2%")
    assert "ran for" in fields
    exported = cli("dead-letters", "replay", "show", "1", "--state", "rejected", "--csv").lines
    assert exported[0].startswith("position,deadLetter,state,type,reference,user,tokens,result")
    assert exported[1].startswith("1,1,rejected,usage.deduct,r-0,ann,50000,rejected: insufficient_balance,")
    unknown = cli("dead-letters", "replay", "show", "99", "--csv")
    assert (unknown.code, unknown.out) == (4, "")
    shown = cli("dead-letters", "replay", "show", "1", "--json").json
    assert (shown["rejected"]["tokens"], shown["notable"][0]["state"]) == (50_000, "rejected")
    refused = cli("dead-letters", "replay", "1", "--stop-on", "rejected", "--reason", "x")
    assert (refused.code, "is no limit: write a state and a number" in refused.err) == (2, True)
