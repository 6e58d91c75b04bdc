"""``dead-letters replay --dry-run``: results without sending."""

from tests.cli.console import Cli
from tests.cli.dead_letters.parts import BONUS, worker
from tests.support.rabbit_client import RabbitClient


def test_dry_run_shows_the_results_of_a_replay_and_sends_nothing(cli: Cli, rabbit: RabbitClient) -> None:
    rabbit.publish(BONUS)
    rabbit.publish(b"oops", routing_key="usage.deduct")
    worker(cli, 2)
    ended = cli("dead-letters", "replay", "1", "2", "--dry-run", "--json")
    assert ended.code == 1
    forecasts = {forecast["would"]: forecast for forecast in ended.json["forecasts"]}
    assert (
        forecasts["apply"]["deadLetters"],
        forecasts["apply"]["tokens"],
        forecasts["apply"]["sample"],
    ) == (1, 2_000, 1)
    assert (forecasts["malformed"]["code"], forecasts["malformed"]["sample"]) == ("not_json", 2)
    assert cli("dead-letters", "replay", "1", "--dry-run").code == 0
    assert rabbit.depth("billing.payments") == rabbit.depth("billing.usage") == 0
    assert cli("balance", "ann", "--json").json["balance"] == 10_000
    assert cli("dead-letters", "replay", "list", "--json").json["replays"] == []
