"""Rights of each broker user that `topology definitions` makes: the forbidden is tried on a real broker."""

import json
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from typing import Any
from uuid import uuid4

import pika
import pytest
from pika.exceptions import ChannelClosedByBroker

from tests.support.broker_users import EVERY_ROLE, BrokerUsers
from tests.support.provision import RabbitMQServer
from tests.support.rabbit_client import RabbitClient
from tests.support.rabbitmq_management import ManagementError, RabbitMQAddress, connected
from tests.support.rabbitmq_server import RabbitMQ
from tests.support.waiting import eventually
from worker.broker import BILLING, open_link
from worker.broker.definitions import definitions, password_hash
from worker.broker.management import Management
from worker.broker.roles import USERS, BrokerUser, rights_of

ACCESS_REFUSED = 403
TOPOLOGY = BILLING.partitioned(8)

Channel = Any
Attempt = Callable[[Channel, str], object]


@pytest.fixture(scope="module")
def users(rabbitmq: RabbitMQServer) -> Iterator[BrokerUsers]:
    """A user of each role in a vhost of this module's own."""
    vhost = f"rights_{uuid4().hex[:8]}"
    rabbitmq.management.create_vhost(vhost)
    with BrokerUsers(rabbitmq, vhost, topology=TOPOLOGY) as users:
        yield users
    rabbitmq.management.delete_vhost(vhost)


# -- attempts ---------------------------------------------------------------------------------------------


def publishes(key: str, exchange: str = "billing") -> Attempt:
    """Return the attempt to publish; USER in a name stands for the user itself."""

    def attempt(channel: Channel, user: str) -> None:
        channel.confirm_delivery()
        channel.basic_publish(exchange.replace("USER", user), key, b"{}", mandatory=True)

    return attempt


def consumes(queue: str) -> Attempt:
    return lambda channel, _: channel.basic_consume(queue, lambda *_: None)


def gets(queue: str) -> Attempt:
    return lambda channel, _: channel.basic_get(queue)


def declares(queue: str) -> Attempt:
    return lambda channel, user: channel.queue_declare(queue.replace("USER", user), durable=True)


def deletes(queue: str) -> Attempt:
    return lambda channel, _: channel.queue_delete(queue)


def purges(queue: str) -> Attempt:
    return lambda channel, _: channel.queue_purge(queue)


def declares_exchange(name: str) -> Attempt:
    return lambda channel, _: channel.exchange_declare(name, "topic")


def deletes_exchange(name: str) -> Attempt:
    return lambda channel, _: channel.exchange_delete(name)


def unbinds(queue: str) -> Attempt:
    return lambda channel, _: channel.queue_unbind(queue, "billing", "usage.*")


def binds_its_queue_to(exchange: str, key: str = "#") -> Attempt:
    """Return the attempt to have copies of what an exchange gets in a queue of the user's own."""

    def attempt(channel: Channel, user: str) -> None:
        queue = f"billing.replies.{user}.stolen"
        channel.queue_declare(queue, exclusive=True)
        channel.queue_bind(queue, exchange, key)

    return attempt


def binds_the_commands_to_its_exchange(channel: Channel, user: str) -> None:
    """Try to send ``credit.bonus`` by an exchange of its own, for which no topic permission is asked."""
    own = f"billing.replies.{user}.way"
    channel.exchange_declare(own, "topic", auto_delete=True)
    channel.exchange_bind("billing", own, "#")
    publishes("credit.bonus", own)(channel, user)


FORBIDDEN: list[tuple[str, str, Attempt]] = [
    ("app", "publishes credit.bonus", publishes("credit.bonus")),
    ("app", "publishes credit.bonus in a partition", publishes("credit.bonus.07")),
    ("app", "publishes credit.bonus in bulk", publishes("credit.bonus", "billing.bulk")),
    ("app", "publishes payment.succeeded", publishes("payment.succeeded")),
    ("app", "publishes account.import", publishes("account.import")),
    ("app", "publishes account.open.import", publishes("account.open.import")),
    ("app", "asks for the whole ledger", publishes("query.stats")),
    ("app", "publishes account.open in bulk", publishes("account.open", "billing.bulk")),
    ("app", "publishes to a queue by its name", publishes("billing.payments", "")),
    ("app", "publishes to the notices", publishes("payment.rejected", "billing.events")),
    ("app", "publishes by an exchange of its own", binds_the_commands_to_its_exchange),
    ("app", "consumes billing.usage", consumes("billing.usage")),
    ("app", "consumes billing.payments", consumes("billing.payments")),
    ("app", "consumes billing.queries", consumes("billing.queries")),
    ("app", "consumes billing.dead", consumes("billing.dead")),
    ("app", "gets from billing.dead", gets("billing.dead")),
    ("app", "purges billing.usage", purges("billing.usage")),
    ("app", "deletes billing.usage", deletes("billing.usage")),
    ("app", "declares a queue billing.mine", declares("billing.mine")),
    ("app", "declares billing.payments anew", declares("billing.payments")),
    ("app", "declares a queue of a namesake", declares("billing.replies.USERx")),
    ("app", "declares the queue of ops", declares("billing.replies.ops.1")),
    ("app", "declares an exchange", declares_exchange("billing.mine")),
    ("app", "binds its queue to billing", binds_its_queue_to("billing")),
    ("app", "binds its queue to billing.bulk", binds_its_queue_to("billing.bulk")),
    ("app", "binds its queue to the notices", binds_its_queue_to("billing.events")),
    ("app", "unbinds billing.usage", unbinds("billing.usage")),
    ("app", "consumes a partition", consumes("billing.usage.07")),
    ("app", "declares a partition", declares("billing.usage.63")),
    ("app", "unbinds a partition", unbinds("billing.usage.07")),
    ("producer", "publishes payment.succeeded in a partition", publishes("payment.succeeded.07")),
    ("producer", "publishes to a partition by its name", publishes("billing.payments.07", "")),
    ("producer", "publishes account.open", publishes("account.open")),
    ("producer", "asks for a balance", publishes("query.balance")),
    ("producer", "consumes billing.replies", consumes("billing.replies")),
    ("gateway", "publishes usage.deduct", publishes("usage.deduct")),
    ("gateway", "publishes usage.deduct in bulk", publishes("usage.deduct", "billing.bulk")),
    ("gateway", "publishes credit.bonus", publishes("credit.bonus")),
    ("gateway", "lets a user go", publishes("account.unfreeze")),
    ("gateway", "publishes to a queue by its name", publishes("billing.payments", "")),
    ("gateway", "consumes billing.payments", consumes("billing.payments")),
    ("gateway", "consumes billing.replies", consumes("billing.replies")),
    ("gateway", "declares a queue", declares("billing.replies.USER.1")),
    ("worker", "publishes credit.bonus", publishes("credit.bonus")),
    ("worker", "publishes in bulk", publishes("usage.deduct", "billing.bulk")),
    ("worker", "consumes billing.replies", consumes("billing.replies")),
    ("worker", "deletes billing.usage", deletes("billing.usage")),
    ("worker", "deletes the exchange billing", deletes_exchange("billing")),
    ("worker", "declares a queue", declares("billing.mine")),
    ("worker", "unbinds billing.usage", unbinds("billing.usage")),
    ("reader", "consumes billing.usage", consumes("billing.usage")),
    ("reader", "consumes billing.dead", consumes("billing.dead")),
    ("reader", "publishes usage.deduct", publishes("usage.deduct")),
    ("reader", "publishes to the notices", publishes("payment.rejected", "billing.events")),
    ("reader", "deletes billing.queries", deletes("billing.queries")),
    ("ops", "consumes billing.payments", consumes("billing.payments")),
    ("ops", "purges billing.usage", purges("billing.usage")),
    ("ops", "deletes billing.dead", deletes("billing.dead")),
    ("ops", "declares a queue billing.mine", declares("billing.mine")),
    ("ops", "publishes to a queue by its name", publishes("billing.dead", "")),
    ("ops", "publishes an unknown kind", publishes("ledger.drop")),
    ("ops", "publishes by an exchange of its own", binds_the_commands_to_its_exchange),
    ("ops", "binds its queue to billing", binds_its_queue_to("billing")),
    ("monitor", "consumes billing.dead", consumes("billing.dead")),
    ("monitor", "gets from billing.replies", gets("billing.replies")),
    ("monitor", "purges billing.dead", purges("billing.dead")),
    ("monitor", "deletes billing.dead", deletes("billing.dead")),
    ("monitor", "publishes usage.deduct", publishes("usage.deduct")),
    ("monitor", "publishes to a queue by its name", publishes("billing.usage", "")),
    ("monitor", "declares a queue", declares("billing.replies.USER.1")),
    ("listener", "publishes usage.deduct", publishes("usage.deduct")),
    ("listener", "publishes to a queue by its name", publishes("billing.usage", "")),
    ("listener", "consumes billing.replies", consumes("billing.replies")),
    ("listener", "declares a queue of replies", declares("billing.replies.USER.1")),
]


@pytest.mark.parametrize(
    ("role", "attempt"),
    [pytest.param(role, attempt, id=f"{role} {what}") for role, what, attempt in FORBIDDEN],
)
def test_broker_refuses(users: BrokerUsers, role: str, attempt: Attempt) -> None:
    with closing(connected(users.url(role))) as connection:
        channel = connection.channel()
        with pytest.raises(ChannelClosedByBroker) as refused:
            attempt(channel, users.name(role))
    assert refused.value.reply_code == ACCESS_REFUSED


def test_producer_reaches_a_partition_of_usage_and_the_worker_reads_it(users: BrokerUsers) -> None:
    with closing(connected(users.url("producer"))) as connection:
        for exchange in ("billing", "billing.bulk"):
            publishes("usage.deduct.07", exchange)(connection.channel(), "")
    with closing(connected(users.url("worker"))) as connection:
        channel = connection.channel()
        for queue in ("billing.usage.07", "billing.bulk.07"):
            method, _, body = channel.basic_get(queue, auto_ack=True)
            assert (method.routing_key, body) == ("usage.deduct.07", b"{}")


def test_listener_can_not_lead_its_queue_into_the_commands(users: BrokerUsers) -> None:
    with closing(connected(users.url("listener"))) as connection:
        channel, own = connection.channel(), f"billing.notices.{users.name('listener')}"
        channel.exchange_declare(own, "topic", auto_delete=True)
        with pytest.raises(ChannelClosedByBroker) as bound:
            channel.exchange_bind("billing", own, "#")
        channel = connection.channel()
        with pytest.raises(ChannelClosedByBroker) as dead_lettering:
            channel.queue_declare(own, arguments={"x-dead-letter-exchange": "billing"})
    assert (bound.value.reply_code, dead_lettering.value.reply_code) == (ACCESS_REFUSED, ACCESS_REFUSED)


@pytest.mark.parametrize("role", ["app", "gateway", "worker", "ops"])
def test_user_can_not_publish_as_another_one(users: BrokerUsers, role: str) -> None:
    key = {"gateway": "payment.failed", "worker": "account.settle"}.get(role, "usage.deduct")
    with closing(connected(users.url(role))) as connection:
        channel = connection.channel()
        channel.confirm_delivery()
        forged = pika.BasicProperties(user_id=users.name("reader"))
        with pytest.raises(ChannelClosedByBroker, match="user_id"):
            channel.basic_publish("billing", key, b"{}", forged)


def test_monitor_sees_queues_and_neither_reads_nor_changes_them(users: BrokerUsers) -> None:
    monitor = users.management("monitor")
    assert set(monitor.queue_depths(users.vhost)) >= {queue.name for queue in BILLING.queues}
    for forbidden in (
        lambda: monitor.take(users.vhost, "billing.dead"),
        lambda: monitor.delete_queue(users.vhost, "billing.dead"),
        lambda: monitor.set_policy(users.vhost, "billing-work", pattern=".*", definition={"max-length": 1}),
        lambda: monitor.create_vhost("mine"),
    ):
        with pytest.raises(ManagementError, match=r": 40[13] "):
            forbidden()


def test_ops_administers_nothing(users: BrokerUsers) -> None:
    ops = users.management("ops")
    for forbidden in (
        lambda: ops.set_policy(users.vhost, "billing-work", pattern=".*", definition={"max-length": 1}),
        lambda: ops.create_user("mine", "secret", users.vhost),
        lambda: ops.delete_queue(users.vhost, "billing.dead"),
    ):
        with pytest.raises(ManagementError, match=r": 40[13] "):
            forbidden()


@pytest.mark.parametrize("role", ["app", "gateway", "worker", "reader", "producer", "listener"])
def test_user_without_a_tag_gets_nothing_from_the_management_api(users: BrokerUsers, role: str) -> None:
    with pytest.raises(ManagementError, match="401"):
        users.management(role).queue_depths(users.vhost)


def test_no_role_that_publishes_configures_a_name_that_it_writes(users: BrokerUsers) -> None:
    for user in users.users:
        rights = rights_of(user, BILLING)
        both = set(rights.configure[2:-2].split("|")) & set(rights.write[2:-2].split("|"))
        assert both <= {""} or not user.role.sends, user


def test_definitions_make_what_declaring_makes(
    users: BrokerUsers, rabbitmq: RabbitMQServer, bare_broker_url: str
) -> None:
    with closing(open_link(bare_broker_url)) as link:
        link.declare(TOPOLOGY)
    declared = rabbitmq.management.definitions_of(bare_broker_url.rpartition("/")[2])
    imported = rabbitmq.management.definitions_of(users.vhost)
    for part in ("exchanges", "queues", "bindings"):
        assert _ours(imported[part]) == _ours(declared[part]), part
    policies = {policy["name"]: (policy["pattern"], policy["definition"]) for policy in imported["policies"]}
    assert policies == dict(BILLING.policies())


def _ours(parts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the parts of the topology, in order; attempts of other tests leave exchanges behind."""
    names = {*BILLING.exchanges, *(queue.name for queue in TOPOLOGY.queues)}
    ours = [part for part in parts if part.get("name", part.get("source")) in names]
    return sorted(ours, key=lambda part: repr(sorted(part.items())))


def test_import_of_new_rights_leaves_users_and_passwords(
    users: BrokerUsers, rabbitmq: RabbitMQServer
) -> None:
    rights = definitions(BILLING, users.users, vhost=users.vhost, hashes=None)
    assert "users" not in rights
    rabbitmq.management.import_definitions(rights)
    for role in EVERY_ROLE:
        connected(users.url(role.name)).close()


def test_user_without_a_hash_can_not_log_in(rabbitmq: RabbitMQServer, users: BrokerUsers) -> None:
    from worker.broker.definitions import definitions

    nobody = BrokerUser.parse(f"app=nobody-{uuid4().hex[:8]}")
    rabbitmq.management.import_definitions(definitions(BILLING, [nobody], vhost=users.vhost, hashes={}))
    try:
        for password in ("", "guest", nobody.name):
            with pytest.raises(ManagementError, match="401"):
                rabbitmq.management.as_user(nobody.name, password).ping()
    finally:
        rabbitmq.management.delete_user(nobody.name)


@pytest.mark.slow
def test_node_that_loads_the_definitions_has_these_users_alone() -> None:
    """A node as Compose starts it, and once more over its data: here a user of ours is who asks."""
    password_of = {user.role.name: uuid4().hex for user in USERS}

    def made(address: RabbitMQAddress) -> str:
        users = [BrokerUser(address.user if user.name == "ops" else user.name, user.role) for user in USERS]
        passwords = {**password_of, "ops": address.password}
        hashes = {user.name: password_hash(passwords[user.role.name], b"salt") for user in users}
        return json.dumps(definitions(BILLING, users, vhost="/", hashes=hashes))

    with RabbitMQ.start(definitions=made) as server:
        for _ in range(2):
            with closing(open_link(server.address.url())) as link:
                assert link.differences(BILLING) == []
            with pytest.raises(ManagementError, match=r": 401 "):
                server.management.as_user("guest", "guest").ping()
            with pytest.raises(ManagementError, match=r": 401 "):
                server.management.create_vhost("mine")
            limits = Management(server.address.url(), server.address.management_url)
            wanted = dict(BILLING.least_delivery_limits())
            eventually(lambda: limits.delivery_limits(*wanted) == wanted, what="the policies in force")  # noqa: B023
            app = RabbitMQAddress.url(replace(server.address, user="app", password=password_of["app"]))
            with closing(connected(app)) as connection:
                publishes("usage.deduct")(connection.channel(), "app")
                with pytest.raises(ChannelClosedByBroker):
                    publishes("credit.bonus")(connection.channel(), "app")
            server.stop()
            server.resume()
        with closing(open_link(server.address.url())) as link:
            assert link.depth("billing.usage") == 2, "what was published before is kept"


# -- what a user may do, beyond the whole jobs in test_least_rights.py --------------------------------------


@pytest.mark.parametrize(
    ("role", "key", "exchange"),
    [
        ("app", "usage.deduct", "billing"),
        ("app", "usage.deduct", "billing.bulk"),
        ("app", "account.open", "billing"),
        ("app", "query.balance", "billing"),
        ("producer", "usage.batch", "billing.bulk"),
        ("gateway", "payment.succeeded", "billing"),
        ("gateway", "account.freeze", "billing"),
        ("gateway", "subscription.renew", "billing"),
        ("worker", "account.settle", "billing"),
        ("ops", "credit.bonus", "billing"),
        ("ops", "account.import", "billing"),
        ("ops", "query.stats", "billing"),
    ],
)
def test_broker_takes_what_a_role_sends(users: BrokerUsers, role: str, key: str, exchange: str) -> None:
    with closing(connected(users.url(role))) as connection:
        publishes(key, exchange)(connection.channel(), users.name(role))


def test_listener_gets_notices_in_a_queue_of_its_own(users: BrokerUsers) -> None:
    with RabbitClient(users.url("app")) as _, closing(connected(users.url("listener"))) as connection:
        channel = connection.channel()
        queue = f"billing.notices.{users.name('listener')}.mine"
        channel.queue_declare(queue, durable=True, arguments={"x-queue-type": "quorum"})
        channel.queue_bind(queue, "billing.events", "payment.*")
        with closing(connected(users.url("worker"))) as worker:
            publishes("payment.rejected", "billing.events")(worker.channel(), "")
        taken = None
        while taken is None:
            taken, _, _ = channel.basic_get(queue, auto_ack=True)
        channel.queue_delete(queue)
