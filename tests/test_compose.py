"""Checks of docker-compose.yml without an engine: validity, order, no secrets, commands that run."""

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from itertools import takewhile
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from sqlalchemy import make_url

from schemas import OpenAccount, QueryBalance
from tests.support.database_roles import drop_roles
from tests.support.postgres_server import postgres_binaries
from tests.support.processes import WorkerProcesses, run_cli
from tests.support.provision import PostgresServer, RabbitMQServer
from tests.support.rabbitmq_management import ManagementError
from tests.support.rabbitmq_server import RabbitMQ
from worker.broker.roles import USERS, own_users, sender_rules
from worker.cli.passwords import PASSWORD_MIN
from worker.cli.root import cli
from worker.client import BillingClient
from worker.ledger.roles import RoleNames
from worker.runtime.supervisor import _STOP_GRACE_S
from worker.settings import ENV_PREFIX, Settings, load_settings

ROOT = Path(__file__).parents[1]
FILE = ROOT / "docker-compose.yml"
COMPOSE: dict[str, Any] = yaml.safe_load(FILE.read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = {name: service for name, service in SERVICES.items() if "build" in service}


def commands() -> Iterator[tuple[str, list[str]]]:
    """Yield every ``billing-worker`` command of the file, with its service."""
    for name, service in SERVICES.items():
        for words in (service.get("command", []), service.get("healthcheck", {}).get("test", ["CMD"])[1:]):
            if words and words[0] == "billing-worker":
                yield name, words[1:]


def commands_of(service: str) -> list[list[str]]:
    """Return the commands of one service."""
    return [words for name, words in commands() if name == service]


def resolved(words: list[str]) -> click.Context:
    """Return the context of the command that ``words`` name, with its options parsed."""
    command: click.Command = cli
    context = click.Context(cli, info_name="billing-worker")
    while isinstance(command, click.Group):
        name, found, words = command.resolve_command(context, list(words))
        assert found is not None
        command, context = found, click.Context(found, info_name=name, parent=context)
    return command.make_context(context.info_name, list(words))


# -- the file ---------------------------------------------------------------------------------------------


def test_compose_file_follows_the_compose_schema() -> None:
    checked = subprocess.run(
        [
            *(sys.executable, "-m", "check_jsonschema"),
            *("--builtin-schema", "vendor.compose-spec", "--no-cache", str(FILE)),
        ],
        capture_output=True,
        text=True,
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_compose_file_has_every_service() -> None:
    assert list(SERVICES) == [
        "definitions",
        "rabbitmq",
        "postgres",
        "migrate",
        "worker",
        "scheduler",
        "readers",
    ]


def test_servers_keep_their_data_in_volumes() -> None:
    mounted = {
        mount.partition(":")[0] for service in SERVICES.values() for mount in service.get("volumes", [])
    }
    assert mounted == set(COMPOSE["volumes"])
    for name in ("rabbitmq", "postgres"):
        assert SERVICES[name]["volumes"][0].startswith(f"{name}-data:")


def test_ports_are_open_on_loopback_only() -> None:
    for service in SERVICES.values():
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))


def test_images_are_pinned_to_a_version() -> None:
    for service in SERVICES.values():
        assert "build" in service or re.search(r":\d", service["image"])


# -- the order --------------------------------------------------------------------------------------------


def test_each_service_waits_for_its_dependencies() -> None:
    needs = {
        name: {other: what["condition"] for other, what in service.get("depends_on", {}).items()}
        for name, service in SERVICES.items()
    }
    everything = {
        "rabbitmq": "service_healthy",
        "postgres": "service_healthy",
        "migrate": "service_completed_successfully",
    }
    assert needs == {
        "definitions": {},
        "rabbitmq": {"definitions": "service_completed_successfully"},
        "postgres": {},
        "migrate": {"postgres": "service_healthy"},
        "worker": everything,
        "scheduler": everything,
        "readers": everything,
    }


def test_each_service_can_meet_the_conditions_about_it() -> None:
    for service in SERVICES.values():
        for name, what in service.get("depends_on", {}).items():
            other = SERVICES[name]
            if what["condition"] == "service_healthy":
                assert "healthcheck" in other
            else:
                assert other["restart"] == "no", "one that restarts never completes"


def test_worker_has_time_to_stop_in_order() -> None:
    grace = SERVICES["worker"]["stop_grace_period"]
    assert float(grace.removesuffix("s")) > _STOP_GRACE_S
    assert SERVICES["worker"]["restart"] == "unless-stopped"


# -- settings and secrets ---------------------------------------------------------------------------------


SECRETS = Path("/run/secrets")


def environment(name: str, secrets: Path) -> dict[str, str]:
    """Return the variables of a service, with its secrets in the folder ``secrets``."""
    given: dict[str, str] = OURS[name].get("environment", {})
    return {variable: value.replace(str(SECRETS), str(secrets)) for variable, value in given.items()}


def settings_of(name: str, secrets: Path, **changes: str) -> Settings:
    values = {
        variable.removeprefix(ENV_PREFIX).lower(): value
        for variable, value in environment(name, secrets).items()
    }
    return load_settings(**{**values, **changes})


@pytest.fixture
def secrets(tmp_path: Path) -> Path:
    """Folder of secrets as the head of the file makes it."""
    (block,) = re.findall(r"((?:^# {3}.*\n)+)", FILE.read_text(), re.MULTILINE)
    script = re.sub("^# {3}", "", block, flags=re.MULTILINE).replace("docker compose up --build\n", "")
    subprocess.run(["sh", "-e"], input=script.encode(), cwd=tmp_path, check=True)
    return tmp_path / "secrets"


@pytest.mark.parametrize("name", OURS)
def test_variables_are_settings(name: str) -> None:
    for variable in OURS[name].get("environment", {}):
        assert variable.removeprefix(ENV_PREFIX).lower() in Settings.model_fields


def test_secrets_are_made_by_the_head_of_the_file_and_open_to_services_alone(secrets: Path) -> None:
    assert secrets.stat().st_mode & 0o777 == 0o700
    assert {path.name for path in secrets.iterdir()} == set(COMPOSE["secrets"])
    for name, secret in COMPOSE["secrets"].items():
        assert secret == {"file": f"./secrets/{name}"}
        assert (secrets / name).stat().st_mode & 0o777 == 0o444
        assert len((secrets / name).read_text().strip()) >= PASSWORD_MIN
    assert "/secrets/" in (ROOT / ".gitignore").read_text().splitlines()


@pytest.mark.parametrize("name", OURS)
def test_each_service_has_the_secrets_that_it_reads_and_no_others(name: str) -> None:
    read = {
        Path(value).name
        for variable, value in OURS[name].get("environment", {}).items()
        if variable.endswith("_FILE")
    }
    if name == "definitions":
        read = {user.name for user in USERS}
    if name == "migrate":
        read |= set(RoleNames().logins)
    assert set(OURS[name]["secrets"]) == read


@pytest.mark.parametrize(
    ("name", "broker", "database"),
    [
        ("worker", "worker", "billing_worker"),
        ("scheduler", "worker", "billing_worker"),
        ("readers", "reader", "billing_reader"),
    ],
)
def test_each_process_logs_in_as_its_own_user(secrets: Path, name: str, broker: str, database: str) -> None:
    settings = settings_of(name, secrets)
    password = (secrets / broker).read_text().strip()
    assert settings.broker_url.get_secret_value() == f"amqp://{broker}:{password}@rabbitmq:5672/"
    password = (secrets / database).read_text().strip()
    url = f"postgresql://{database}:{password}@postgres:5432/billing"
    assert settings.database_url.get_secret_value() == url


def test_rules_of_senders_fit_the_users_of_the_broker(secrets: Path) -> None:
    rules: dict[str, object] = {"senders": sender_rules(USERS), "worker_users": tuple(own_users(USERS))}
    for name in ("worker", "scheduler", "readers"):
        settings = settings_of(name, secrets).model_dump()
        found = {
            rule: {pattern: list(users) for pattern, users in value.items()}
            if isinstance(value, dict)
            else value
            for rule, value in settings.items()
            if rule in rules
        }
        assert found == {rule: value for rule, value in rules.items() if rule in Settings.model_fields}


def test_compose_file_has_no_secret() -> None:
    text = FILE.read_text()
    assert "${" not in text
    assert not re.search(r"://[^@/\s]*:[^@/\s]*@", text), "a URL has a password"
    assert re.findall(r"PASS\w*: (\S+)", text) != []
    assert all(value.startswith("/run/secrets/") for value in re.findall(r"PASS\w*: (\S+)", text))


def test_superuser_is_the_one_of_the_migration_alone() -> None:
    superuser = SERVICES["postgres"]["environment"]["POSTGRES_USER"]
    logins = {
        name: make_url(service["environment"]["BILLING_DATABASE_URL"]).username
        for name, service in OURS.items()
        if "environment" in service
    }
    assert [name for name, login in logins.items() if login == superuser] == ["migrate"]
    assert SERVICES["postgres"]["environment"]["POSTGRES_DB"] == "billing"


def test_broker_has_no_users_but_those_of_the_definitions() -> None:
    broker = SERVICES["rabbitmq"]
    assert "environment" not in broker, "a default user would be an administrator"
    (config,) = broker["configs"]
    line = COMPOSE["configs"][config["source"]]["content"].strip()
    _, written = commands_of("definitions")[0][-2:]
    assert line == f"load_definitions = {written}"
    folder = str(Path(written).parent)
    mounts = [SERVICES[name]["volumes"] for name in ("definitions", "rabbitmq")]
    assert [f"definitions:{folder}", f"definitions:{folder}:ro"] == [mounts[0][0], mounts[1][1]]
    assert not any(tag in {"administrator", "policymaker"} for user in USERS for tag in user.role.tags)


# -- the image --------------------------------------------------------------------------------------------


def dockerfile() -> list[list[str]]:
    (text,) = {service["build"]["dockerfile_inline"] for service in OURS.values()}
    return [line.split() for line in text.splitlines()]


def test_copied_files_exist_and_suffice_for_the_package() -> None:
    sources = [source for word, *rest in dockerfile() if word == "COPY" for source in rest[:-1]]
    assert all((ROOT / source).exists() for source in sources)
    files = {"pyproject.toml", "constraints.txt", "LICENSE", "README.md"}
    assert set(sources) == files | {"schemas", "worker"}


def test_image_runs_without_root() -> None:
    lines = dockerfile()
    assert lines[0] == ["FROM", "python:3.12-slim"]
    users = [words[1] for words in lines if words[0] == "USER"]
    assert users == ["billing"]
    assert lines[-1][0] == "USER"


# -- the commands -----------------------------------------------------------------------------------------


def test_compose_file_runs_these_commands() -> None:
    assert [(name, shlex.join(words)) for name, words in commands()] == [
        (
            "definitions",
            "topology definitions --journal --passwords /run/secrets --output /definitions/definitions.json",
        ),
        ("migrate", "migrate --roles --passwords /run/secrets"),
        ("worker", "run --workers 2"),
        ("worker", "check"),
        ("scheduler", "scheduler"),
        ("scheduler", "check"),
        ("readers", "readers --readers 1"),
    ]


@pytest.mark.parametrize(
    ("name", "words"),
    list(commands()),
    ids=lambda value: shlex.join(value) if isinstance(value, list) else value,
)
def test_command_exists_in_the_command_line(name: str, words: list[str]) -> None:
    named = list(takewhile(lambda word: not word.startswith("--"), words))
    assert resolved(words).command.name == named[-1], name


def test_wrong_command_raises() -> None:
    with pytest.raises(click.UsageError):
        resolved(["run", "--wrokers", "2"])
    with pytest.raises(click.UsageError):
        resolved(["topology", "declaer"])


def test_commands_run_in_order_on_real_servers(
    postgres: PostgresServer, rabbitmq: RabbitMQServer, bare_broker_url: str, secrets: Path, tmp_path: Path
) -> None:
    """Each command of the file, as its service and with its logins; RabbitMQ's start is an import."""
    database, vhost = "test_compose", bare_broker_url.rpartition("/")[2]
    postgres.databases.create_database(database)
    broker = f"@{rabbitmq.address.host}:{rabbitmq.address.port}/{vhost}"
    server = f"@{postgres.address.host}:{postgres.address.port}/{database}"
    (secrets / "postgres").chmod(0o600)
    (secrets / "postgres").write_text(postgres.address.password)

    def settings(service: str) -> Settings:
        given = environment(service, secrets)
        urls = {
            name: re.sub("@.*", place, given[f"BILLING_{name.upper()}"])
            for name, place in (("broker_url", broker), ("database_url", server))
            if f"BILLING_{name.upper()}" in given
        }
        files = {
            f"{name}_password_file": Path(given[f"BILLING_{name.upper()}_PASSWORD_FILE"])
            for name in ("broker", "database")
            if f"{name}_url" in urls
        }
        rules = {name: given[f"BILLING_{name.upper()}"] for name in ("senders", "readers") if name in given}
        return load_settings(**urls, **files, **rules, management_url=rabbitmq.address.management_url)

    def run(service: str, *further: str) -> None:
        (words,) = [words for words in commands_of(service) if words != ["check"]]
        local = [
            re.sub("^/definitions", str(tmp_path), word.replace("/run/secrets", str(secrets)))
            for word in words
        ]
        chosen = settings(service) if "environment" in OURS[service] else load_settings()
        done = run_cli(chosen, *local, *further)
        assert done.returncode == 0, done.stderr.decode()

    try:
        run("definitions", "--vhost", vhost)
        rabbitmq.management.import_definitions(json.loads((tmp_path / "definitions.json").read_text()))
        run("migrate")
        app = settings("worker").broker_url.get_secret_value().replace("//worker:", "//app:")
        app = re.sub(":[^:@]*@", f":{(secrets / 'app').read_text().strip()}@", app, count=1)
        with (
            WorkerProcesses(settings("worker")) as processes,
            WorkerProcesses(settings("readers")) as reading,
            BillingClient(app) as client,
        ):
            worker = processes.start(*commands_of("worker")[0][1:])
            reader = reading.start(*commands_of("readers")[0][1:], command="readers")
            opened = OpenAccount(reference_id="o", user_id="ann", tier="free")
            assert client.request(opened, timeout_s=30).status == "applied"
            assert client.ask(QueryBalance(user_id="ann"), timeout_s=30).type == "answer.balance"
            healthy = run_cli(settings("worker"), *commands_of("worker")[1])
            assert (healthy.returncode, healthy.stderr) == (0, b"")
            scheduler = processes.start(command="scheduler")
            assert scheduler.stderr is not None
            assert b"scheduling what falls due" in scheduler.stderr.readline()
            ended = [processes.stop(scheduler), processes.stop(worker), reading.stop(reader)]
            assert [code for code, _ in ended] == [0, 0, 0], ended
            assert not [log for _, log in ended if "refused" in log or "denied" in log]
    finally:
        postgres.databases.drop_database(database)
        names = RoleNames()
        drop_roles(postgres, names.owner, *names.logins, names.privacy)
        for user in USERS:
            with suppress(ManagementError):
                rabbitmq.management.delete_user(user.name)


def test_postgresql_health_check_succeeds(postgres: PostgresServer) -> None:
    _, *words = SERVICES["postgres"]["healthcheck"]["test"]
    binaries = postgres_binaries()
    program = words[0] if binaries is None else str(binaries / words[0])
    place = ["-h", postgres.address.host, "-p", str(postgres.address.port)]
    assert subprocess.run([program, *words[1:], *place], timeout=30).returncode == 0


def test_rabbitmq_health_check_succeeds(rabbitmq: RabbitMQServer) -> None:
    _, program, *words = SERVICES["rabbitmq"]["healthcheck"]["test"]
    assert [program, *words] == ["rabbitmq-diagnostics", "-q", "check_port_connectivity"]
    if isinstance(rabbitmq, RabbitMQ):  # the node of a given broker is not ours to ask
        script = rabbitmq._script.with_name(program)  # beside the server's; Debian's on PATH changes the user
        asked = subprocess.run(
            [str(script), *words], env=rabbitmq._environment(), capture_output=True, timeout=60
        )
        assert asked.returncode == 0, asked.stderr
