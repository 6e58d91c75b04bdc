"""Services of every format: commands that exist, settings that exist, users with least rights, no secrets."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.support.command_words import resolved
from tests.support.deployed import (
    COMPOSE_FILE,
    DEPLOY,
    FORMATS,
    LOOPS,
    MANIFESTS,
    DeployedService,
    manifests,
    pods,
    services,
    units,
)
from tests.support.pages import code_spans, tables
from worker.broker.roles import USERS, own_users, sender_rules
from worker.cli.bridge import BridgeSettings
from worker.cli.console import ConsoleSettings
from worker.ledger.roles import RoleNames
from worker.settings import ENV_PREFIX, Settings, load_settings

#: Logins to the broker and to the database of each process.
LOGINS = {
    "worker": ("worker", "billing_worker"),
    "scheduler": ("worker", "billing_worker"),
    "readers": ("reader", "billing_reader"),
    "ops": ("ops", "billing_worker"),
}


def every_service() -> Iterator[tuple[str, DeployedService]]:
    for form in FORMATS:
        for service in services(form).values():
            yield form, service


EVERY = [pytest.param(form, service, id=f"{form}-{service.name}") for form, service in every_service()]


@pytest.mark.parametrize("form", FORMATS)
def test_format_has_every_process(form: str) -> None:
    assert {*LOOPS, "migrate", "ops"} <= set(services(form))


@pytest.mark.parametrize(("form", "service"), EVERY)
def test_command_of_a_service_exists_with_its_options(form: str, service: DeployedService) -> None:
    found = resolved(service.words).command.name
    assert found in service.words, form


@pytest.mark.parametrize(("form", "service"), EVERY)
def test_variables_of_a_service_are_settings(form: str, service: DeployedService) -> None:
    known = {
        prefix + name.upper()
        for model, prefix in (
            (Settings, ENV_PREFIX),
            (BridgeSettings, f"{ENV_PREFIX}BRIDGE_"),
            (ConsoleSettings, f"{ENV_PREFIX}CONSOLE_"),
        )
        for name in model.model_fields
    }
    assert set(service.environment) <= known, form


@pytest.mark.parametrize("name", LOGINS)
@pytest.mark.parametrize("form", FORMATS)
def test_process_logs_in_as_its_own_user(form: str, name: str, secrets: Path) -> None:
    service = services(form)[name]
    settings = load_settings(**service.settings(secrets))
    broker, database = LOGINS[name]
    for login, url in ((broker, settings.broker_url), (database, settings.database_url)):
        password = (secrets / login).read_text().strip()
        assert f"//{login}:{password}@" in url.get_secret_value()


@pytest.mark.parametrize("form", FORMATS)
def test_migration_gives_both_logins_their_passwords(form: str, secrets: Path) -> None:
    service = services(form)["migrate"]
    assert service.arguments(secrets) == ["migrate", "--roles", "--passwords", str(secrets)]
    login = re.search("//(.*)@", service.environment["BILLING_DATABASE_URL"])
    assert login is not None
    assert login[1] not in {*RoleNames().logins, RoleNames().owner}


@pytest.mark.parametrize("name", LOGINS)
@pytest.mark.parametrize("form", FORMATS)
def test_rules_of_senders_fit_the_users_of_the_broker(form: str, name: str, secrets: Path) -> None:
    settings = load_settings(**services(form)[name].settings(secrets))
    assert {pattern: list(users) for pattern, users in settings.senders.items()} == sender_rules(USERS)
    assert list(settings.worker_users) == own_users(USERS)


@pytest.mark.parametrize("name", LOOPS)
@pytest.mark.parametrize("form", FORMATS)
def test_process_serves_probes_and_logs_json(form: str, name: str, secrets: Path) -> None:
    settings = load_settings(**services(form)[name].settings(secrets))
    assert settings.metrics_port > 0
    assert settings.log_format == "json"


def test_files_have_no_secret() -> None:
    for path in DEPLOY.rglob("*.*"):
        assert not re.search(r"://[^@/\s…]*:[^@/\s…]*@", path.read_text()), path


# -- the pages --------------------------------------------------------------------------------------------


def commands_inside() -> Iterator[tuple[str, str]]:
    """Yield the commands of the pages that run in a container, in a pod, or by their path."""
    for path in sorted(DEPLOY.glob("*.md")):
        for line in re.findall(r"^.*(?:-- |ops |/bin/)billing-worker (.+)$", path.read_text(), re.MULTILINE):
            yield path.name, line


@pytest.mark.parametrize(("name", "line"), list(commands_inside()))
def test_command_inside_of_a_page_exists(name: str, line: str) -> None:
    words = shlex.split(line)
    assert resolved(words).command.name in words, name


@pytest.mark.parametrize("name", ["COMPOSE.md", "SYSTEMD.md", "KUBERNETES.md"])
def test_table_of_a_page_has_the_logins_of_each_process(name: str) -> None:
    (rows,) = tables((DEPLOY / name).read_text())
    found = {
        code_spans(first)[0].removeprefix("billing-"): (code_spans(broker), code_spans(database))
        for first, _, broker, database, *_ in rows
    }
    listed = set(LOGINS) & set(found)
    assert listed >= set(LOOPS)
    assert {process: found[process] for process in listed} == {
        process: ([LOGINS[process][0]], [LOGINS[process][1]]) for process in listed
    }


def named_in(page: str, pattern: str) -> set[str]:
    """Return the words of all that ``pattern`` finds on a page, without options."""
    found = re.findall(pattern, (DEPLOY / page).read_text(), re.MULTILINE)
    return {word for text in found for word in text.split() if not word.startswith("-")}


def test_compose_page_names_services_of_the_file() -> None:
    several = named_in("COMPOSE.md", r"^docker compose (?:up|stop|start) (.*)$")
    one = named_in("COMPOSE.md", r"docker compose (?:run --rm|exec|exec -T|logs) (\w+)")
    known = yaml.safe_load(COMPOSE_FILE.read_text())["services"]
    assert one
    assert several | one <= set(known)


def test_systemd_page_names_units_that_there_are() -> None:
    named = named_in("SYSTEMD.md", r"systemctl (?:start|stop|restart|reload|enable --now) ([a-z -]+)")
    assert named == {unit.name.removesuffix(".service") for unit in units().values()}


def test_kubernetes_page_names_objects_and_secrets_that_there_are() -> None:
    page = "KUBERNETES.md"
    objects = {f"{found['kind'].lower()}/{found['metadata']['name']}" for found in manifests()}
    assert named_in(page, r"((?:deployment|job|pod)/[a-z-]+)") <= objects
    assert named_in(page, r"apply -k (\w+)") == {
        path.name for path in MANIFESTS.iterdir() if path.name != "image"
    }
    made = {
        name: set(files.split())
        for name, files in re.findall(r"generic ([a-z-]+) \$\(files (.*)\)", (DEPLOY / page).read_text())
    }
    read: dict[str, set[str]] = {}
    for name, pod in pods().items():
        secret = pod["volumes"][0]["secret"]["secretName"]
        service = services("kubernetes")[name]
        words = [*service.words, *service.environment.values()]
        held = {word.rpartition("/")[2] for word in words if word.startswith(f"{service.secrets}/")}
        if name == "migrate":
            held |= set(RoleNames().logins)
        read[secret] = read.get(secret, set()) | held
    assert made == read
