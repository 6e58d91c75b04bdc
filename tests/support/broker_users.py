"""Broker users with the rights that `billing-worker topology definitions` gives them, in one vhost."""

from collections.abc import Sequence
from dataclasses import replace
from types import TracebackType
from typing import Self
from uuid import uuid4

from tests.support.provision import RabbitMQServer
from tests.support.rabbitmq_management import ManagementClient
from worker.broker import BILLING, Topology
from worker.broker.definitions import definitions, password_hash
from worker.broker.roles import FURTHER_ROLES, ROLES, BrokerRole, BrokerUser

EVERY_ROLE = (*ROLES, *FURTHER_ROLES)


class BrokerUsers:
    """A user of each role, with a name of its own, over the imported topology; none outlives the block."""

    def __init__(
        self,
        rabbitmq: RabbitMQServer,
        vhost: str,
        roles: Sequence[BrokerRole] = EVERY_ROLE,
        topology: Topology = BILLING,
    ) -> None:
        self._rabbitmq, self.vhost, self._topology = rabbitmq, vhost, topology
        suffix = uuid4().hex[:8]
        self.users = [BrokerUser(f"{role.name}-{suffix}", role) for role in roles]
        self._passwords = {user.role.name: uuid4().hex for user in self.users}

    def __enter__(self) -> Self:
        hashes = {user.name: password_hash(self._passwords[user.role.name], b"salt") for user in self.users}
        made = definitions(self._topology, self.users, vhost=self.vhost, hashes=hashes)
        self._rabbitmq.management.import_definitions(made)
        return self

    def __exit__(
        self,
        _type: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        for user in self.users:
            self._rabbitmq.management.delete_user(user.name)

    def name(self, role: str) -> str:
        """Return the name of the user in a role."""
        return next(user.name for user in self.users if user.role.name == role)

    def url(self, role: str) -> str:
        """Return the ``amqp://`` URL of the user in a role."""
        address = self._rabbitmq.address
        return replace(address, user=self.name(role), password=self._passwords[role]).url(self.vhost)

    def management(self, role: str) -> ManagementClient:
        """Return a client of the management API as the user in a role."""
        return self._rabbitmq.management.as_user(self.name(role), self._passwords[role])
