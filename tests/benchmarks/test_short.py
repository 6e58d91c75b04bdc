"""The short form: the benchmark runs, and the ledger is true afterwards. No claim about time."""

from tests.benchmarks.first_speed import measure
from tests.support.provision import PostgresServer, RabbitMQServer


def test_the_first_speed_is_measured_on_a_ledger_that_is_true(
    postgres: PostgresServer, rabbitmq: RabbitMQServer
) -> None:
    steps: set[str] = set()
    run = measure(
        postgres,
        rabbitmq,
        messages=1_500,
        users=50,
        workers=1,
        progress=lambda step, _done, _total: steps.add(step),
    )
    assert run.audit_clean
    assert run.seconds > 0
    assert "prefilling" in steps
