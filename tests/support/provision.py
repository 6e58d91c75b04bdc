"""Choice and installation of the servers and programs that a test run uses.

Run as ``python -m tests.support.provision`` it makes sure that all can be had: those named by
environment variables, else installed binaries, else an installation with apt where that is allowed.
Otherwise it exits 1 with the commands that help. Nothing is ever skipped for want of a server.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Protocol

from sqlalchemy.exc import ArgumentError, OperationalError

from tests.support import node, promtool
from tests.support.pgbouncer_server import pgbouncer_binary
from tests.support.postgres_server import Databases, Postgres, PostgresAddress, postgres_binaries
from tests.support.private_server import ServerError
from tests.support.rabbitmq_management import ManagementClient, ManagementError, RabbitMQAddress
from tests.support.rabbitmq_server import RabbitMQ, rabbitmq_binary

DATABASE_URL = "BILLING_TEST_DATABASE_URL"
BROKER_URL = "BILLING_TEST_BROKER_URL"
MANAGEMENT_URL = "BILLING_TEST_MANAGEMENT_URL"
CHROMIUM = "BILLING_TEST_CHROMIUM"
CHROMEDRIVER = "BILLING_TEST_CHROMEDRIVER"

INSTALL_TIMEOUT_S = 900.0

# policy-rc.d keeps the packages from starting system services on the standard ports.
_INSTALL_SCRIPT = """
set -e
export DEBIAN_FRONTEND=noninteractive
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    trap 'rm -f "$policy"' EXIT
    printf '#!/bin/sh\\nexit 101\\n' > "$policy"
    chmod 755 "$policy"
fi
apt-get update -q
apt-get install -y -q --no-install-recommends -o DPkg::Lock::Timeout=120 "$@"
"""


class PostgresServer(Protocol):
    """Interface to PostgreSQL that a test needs, private or given."""

    @property
    def address(self) -> PostgresAddress: ...
    @property
    def databases(self) -> Databases: ...


class RabbitMQServer(Protocol):
    """Interface to RabbitMQ that a test needs, private or given."""

    @property
    def address(self) -> RabbitMQAddress: ...
    @property
    def management(self) -> ManagementClient: ...


@dataclass(frozen=True)
class GivenPostgres:
    """A server named by the environment; nobody here starts or stops it."""

    address: PostgresAddress
    databases: Databases


@dataclass(frozen=True)
class GivenRabbitMQ:
    """A broker named by the environment; nobody here starts or stops it."""

    address: RabbitMQAddress
    management: ManagementClient


@contextmanager
def postgres_server(
    environment: Mapping[str, str] = os.environ,
    settings: Mapping[str, str] | None = None,
    folder: Path | None = None,
) -> Iterator[PostgresServer]:
    """The given PostgreSQL, else a private one with ``settings`` inside ``folder`` while the context lasts.

    Raises ServerError when there is neither. Tests that stop the server start their own.
    """
    given = given_postgres(environment)
    if given is not None:
        yield given
        return
    with Postgres.start(folder, settings) as server:
        yield server


@contextmanager
def rabbitmq_server(
    environment: Mapping[str, str] = os.environ, folder: Path | None = None
) -> Iterator[RabbitMQServer]:
    """The given RabbitMQ, else a private one inside ``folder`` for as long as the context lasts.

    Raises ServerError when there is neither. Tests that stop the broker start their own.
    """
    given = given_rabbitmq(environment)
    if given is not None:
        yield given
        return
    with RabbitMQ.start(folder) as server:
        yield server


def given_postgres(environment: Mapping[str, str]) -> GivenPostgres | None:
    """The server that BILLING_TEST_DATABASE_URL names, after it answered.

    None without the variable. Raises ServerError when the URL is no URL or nobody answers.
    """
    url = environment.get(DATABASE_URL)
    if not url:
        return None
    try:
        address = PostgresAddress.parse(url)
        databases = Databases(address)
        databases.ping()
    except (ArgumentError, ValueError, OperationalError) as error:
        raise ServerError(f"{DATABASE_URL} is set, but PostgreSQL does not answer: {error}") from error
    return GivenPostgres(address, databases)


def given_rabbitmq(environment: Mapping[str, str]) -> GivenRabbitMQ | None:
    """The broker that BILLING_TEST_BROKER_URL and …_MANAGEMENT_URL name, after it answered.

    None without the variables. Raises ServerError when one is missing or nobody answers.
    """
    broker, management_url = environment.get(BROKER_URL), environment.get(MANAGEMENT_URL)
    if not broker and not management_url:
        return None
    if not broker or not management_url:
        raise ServerError(f"Set both {BROKER_URL} (amqp://…) and {MANAGEMENT_URL} (http://…), or neither.")
    try:
        address = RabbitMQAddress.parse(broker, management_url)
        management = ManagementClient(address)
        management.ping()
    except (ValueError, OSError, HTTPException, ManagementError) as error:
        raise ServerError(f"{MANAGEMENT_URL} is set, but RabbitMQ does not answer: {error}") from error
    return GivenRabbitMQ(address, management)


@dataclass(frozen=True)
class Browser:
    """Chromium and what drives it."""

    chromium: Path
    driver: Path


def browser(environment: Mapping[str, str] = os.environ) -> Browser:
    """The browser that the environment names, else the installed one.

    Raises ServerError, with the way out, when there is neither.
    """
    found = given_browser(environment)
    if found is None:
        chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
        found = Browser(Path(chromium), Path(driver)) if chromium and driver else None
    if found is None:
        raise ServerError(_advice([_CHROMIUM]))
    return found


def given_browser(environment: Mapping[str, str]) -> Browser | None:
    """The browser of BILLING_TEST_CHROMIUM and …_CHROMEDRIVER.

    None without the variables. Raises ServerError when one is missing or is no program.
    """
    chromium, driver = environment.get(CHROMIUM), environment.get(CHROMEDRIVER)
    if not chromium and not driver:
        return None
    if not chromium or not driver or not shutil.which(chromium) or not shutil.which(driver):
        raise ServerError(f"Set both {CHROMIUM} and {CHROMEDRIVER} to programs, or neither.")
    return Browser(Path(chromium), Path(driver))


def _browser_binary() -> Path | None:
    """The installed browser, where its driver is installed as well."""
    found = shutil.which("chromium") if shutil.which("chromedriver") else None
    return None if found is None else Path(found)


def systemd_analyze() -> Path:
    """The installed verifier of units. Raises ServerError, with the way out, without one."""
    found = _verifier_binary()
    if found is None:
        raise ServerError(_advice([_SYSTEMD]))
    return found


def _verifier_binary() -> Path | None:
    """The installed ``systemd-analyze``."""
    found = shutil.which("systemd-analyze")
    return None if found is None else Path(found)


@dataclass(frozen=True)
class _Service:
    name: str
    packages: tuple[str, ...]
    given: Callable[[Mapping[str, str]], object]
    binaries: Callable[[], Path | None]
    exports: tuple[str, ...]
    docker_run: str | None

    def is_missing(self, environment: Mapping[str, str]) -> bool:
        return self.given(environment) is None and self.binaries() is None


_CHROMIUM = _Service(
    name="Chromium",
    packages=("chromium", "chromium-driver", "fonts-dejavu-core"),
    given=given_browser,
    binaries=_browser_binary,
    exports=(f"{CHROMIUM}=/usr/bin/chromium", f"{CHROMEDRIVER}=/usr/bin/chromedriver"),
    docker_run=None,
)

_SYSTEMD = _Service(
    name="systemd-analyze",
    packages=("systemd",),
    given=lambda _environment: None,
    binaries=_verifier_binary,
    exports=(),
    docker_run=None,
)

_SERVICES = (
    _Service(
        name="PostgreSQL",
        packages=("postgresql",),
        given=given_postgres,
        binaries=postgres_binaries,
        exports=(f"{DATABASE_URL}=postgresql+psycopg2://postgres:billing@127.0.0.1:5432/postgres",),
        docker_run="docker run -d -e POSTGRES_PASSWORD=billing -p 127.0.0.1:5432:5432 postgres:15",
    ),
    _Service(
        name="RabbitMQ",
        packages=("rabbitmq-server",),
        given=given_rabbitmq,
        binaries=rabbitmq_binary,
        exports=(
            f"{BROKER_URL}=amqp://guest:guest@127.0.0.1:5672/",
            f"{MANAGEMENT_URL}=http://127.0.0.1:15672",
        ),
        docker_run="docker run -d -p 127.0.0.1:5672:5672 -p 127.0.0.1:15672:15672 rabbitmq:3.13-management",
    ),
    _Service(
        name="PgBouncer",
        packages=("pgbouncer",),
        given=lambda _environment: None,
        binaries=pgbouncer_binary,
        exports=(),
        docker_run=None,
    ),
    _CHROMIUM,
    _SYSTEMD,
)


def provide(environment: Mapping[str, str]) -> None:
    """Make sure the servers and the browser can be had, installing what is missing where that is allowed.

    Raises ServerError, with the commands that help, when they can't.
    """
    missing = _missing(environment)
    if missing and shutil.which("apt-get") and (root := _root_prefix()) is not None:
        _install(missing, root)
        missing = _missing(environment)
    if missing:
        raise ServerError(_advice(missing))


def _missing(environment: Mapping[str, str]) -> list[_Service]:
    return [service for service in _SERVICES if service.is_missing(environment)]


def _root_prefix() -> list[str] | None:
    """Prefix that runs a command as root; None where we may not."""
    if os.geteuid() == 0:
        return []
    sudo = shutil.which("sudo")
    return [sudo, "-n"] if sudo and _succeeds([sudo, "-n", "true"]) else None


def _install(services: list[_Service], root: list[str]) -> None:
    packages = [package for service in services for package in service.packages]
    print(f"installing {' '.join(packages)} with apt-get", file=sys.stderr)  # noqa: T201
    command = [*root, "sh", "-c", _INSTALL_SCRIPT, "install", *packages]
    try:
        subprocess.run(
            command,
            check=True,
            timeout=INSTALL_TIMEOUT_S,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )
    except subprocess.CalledProcessError as error:
        raise ServerError(f"apt-get failed ({error.returncode}).\n\n{_advice(services)}") from error
    except subprocess.TimeoutExpired as error:
        took = f"{INSTALL_TIMEOUT_S:.0f} s"
        raise ServerError(f"apt-get took over {took}.\n\n{_advice(services)}") from error


def _advice(services: list[_Service]) -> str:
    names = " and ".join(service.name for service in services)
    paragraphs = [f"The tests need {names}. Do one of these, then run again:", _apt_advice(services)]
    if (
        any(service.docker_run for service in services)
        and shutil.which("docker")
        and _succeeds(["docker", "info"])
    ):
        paragraphs.append(_docker_advice(services))
    paragraphs.append(_export_advice(services, "Name those that are elsewhere:"))
    return "\n\n".join(paragraphs)


def _apt_advice(services: list[_Service]) -> str:
    packages = " ".join(package for service in services for package in service.packages)
    return (
        "Install them (Debian, Ubuntu):\n"
        f"  sudo apt-get update && sudo apt-get install -y --no-install-recommends {packages}"
    )


def _docker_advice(services: list[_Service]) -> str:
    commands = "\n".join(f"  {service.docker_run}" for service in services if service.docker_run)
    return _export_advice(services, f"Use containers:\n{commands}")


def _export_advice(services: list[_Service], heading: str) -> str:
    exports = [f"  export {export}" for service in services for export in service.exports]
    return "\n".join([heading, *exports])


def _succeeds(command: list[str]) -> bool:
    quiet = subprocess.DEVNULL
    try:
        return subprocess.run(command, stdin=quiet, stdout=quiet, stderr=quiet, timeout=10).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def main() -> int:
    """Provide servers, browser, Node and promtool; 1, with advice on stderr, when they can't be had."""
    try:
        provide(os.environ)
        node.install()
        promtool.install()
    except ServerError as error:
        print(error, file=sys.stderr)  # noqa: T201
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
