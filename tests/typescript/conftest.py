"""Fixtures of the TypeScript client: the compiled package, and a virtual host without a worker."""

from collections.abc import Iterator
from uuid import uuid4

import pytest

from tests.support.broker_users import BrokerUsers
from tests.support.certificates import HOST, Authority
from tests.support.provision import RabbitMQServer
from tests.typescript.npm_package import compile_package


@pytest.fixture(scope="session")
def compiled() -> None:
    """The package in ``dist``, its tests in ``build``."""
    compile_package()


@pytest.fixture
def vhost_without_worker(rabbitmq: RabbitMQServer) -> Iterator[str]:
    """A virtual host of this test's own, with nothing in it, beside that of the worker."""
    name = f"test_{uuid4().hex[:12]}"
    rabbitmq.management.create_vhost(name)
    yield rabbitmq.address.url(name)
    rabbitmq.management.delete_vhost(name)


@pytest.fixture
def producer_url(rabbitmq: RabbitMQServer, broker_url: str) -> Iterator[str]:
    """The worker's virtual host, for a user with the rights of an app alone."""
    with BrokerUsers(rabbitmq, broker_url.rpartition("/")[2]) as users:
        yield users.url("app")


@pytest.fixture
def certificates() -> Iterator[str]:
    """Folder of a private CA with the certificates of a broker and of an app."""
    with Authority.made() as authority:
        authority.issue(HOST)
        authority.issue("client", "app")
        yield str(authority.folder)
