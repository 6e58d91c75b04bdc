"""Checks of docker-compose.yml without an engine: validity, order, no secrets, commands that run."""

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from sqlalchemy import make_url

from tests.support.command_words import resolved
from tests.support.deployed import LOOPS, dockerfile, services
from tests.support.installation import Installation
from tests.support.postgres_server import Postgres, postgres_binaries
from tests.support.private_server import StopMode, memory_folder
from tests.support.processes import run_cli
from tests.support.provision import PostgresServer, RabbitMQServer
from tests.support.rabbitmq_server import RabbitMQ
from worker.broker.roles import USERS, own_users, sender_rules
from worker.cli.passwords import PASSWORD_MIN
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
        "ops",
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
        "ops": {},
    }


def test_each_service_can_meet_the_conditions_about_it() -> None:
    for service in SERVICES.values():
        for name, what in service.get("depends_on", {}).items():
            other = SERVICES[name]
            if what["condition"] == "service_healthy":
                assert "healthcheck" in other
            else:
                assert other["restart"] == "no", "one that restarts never completes"


@pytest.mark.parametrize("name", LOOPS)
def test_service_has_time_to_stop_in_order(name: str) -> None:
    grace = SERVICES[name]["stop_grace_period"]
    assert float(grace.removesuffix("s")) > _STOP_GRACE_S
    assert SERVICES[name]["restart"] == "unless-stopped"


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


def secrets_made_in(folder: Path) -> Path:
    """Make the secrets in ``folder`` by the commands in the head of the file; return their folder."""
    (block,) = re.findall(r"((?:^# {3}.*\n)+)", FILE.read_text(), re.MULTILINE)
    script = re.sub("^# {3}", "", block, flags=re.MULTILINE).replace("docker compose up --build\n", "")
    subprocess.run(["sh", "-e"], input=script.encode(), cwd=folder, check=True)
    return folder / "secrets"


@pytest.fixture
def secrets(tmp_path: Path) -> Path:
    """Folder of secrets as the head of the file makes it."""
    return secrets_made_in(tmp_path)


@pytest.fixture(scope="module")
def installation(
    postgres: PostgresServer, rabbitmq: RabbitMQServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Installation]:
    """Installation of the file, started in its order, with its logins; RabbitMQ's start is an import."""
    folder = tmp_path_factory.mktemp("compose")
    with Installation(services("compose"), postgres, rabbitmq, secrets_made_in(folder)) as installation:
        installation.load_definitions(commands_of("definitions")[0])
        installation.migrate()
        for name in LOOPS:
            installation.start(name)
        installation.answers()
        yield installation


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
        ("ops", "ops", "billing_worker"),
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
    for name in (*LOOPS, "ops"):
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


def test_copied_files_exist_and_suffice_for_the_package() -> None:
    sources = [source for word, *rest in dockerfile() if word == "COPY" for source in rest[:-1]]
    assert all((ROOT / source).exists() for source in sources)
    files = {"pyproject.toml", "constraints.txt", "LICENSE", "README.md"}
    assert set(sources) == files | {"schemas", "worker"}


def test_containers_can_change_nothing_but_their_volumes() -> None:
    for service in OURS.values():
        assert service["read_only"]
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]


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
        ("ops", "status"),
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


def test_commands_of_the_file_work_on_real_servers(installation: Installation) -> None:
    healthy = run_cli(installation.settings("worker"), *commands_of("worker")[1])
    assert (healthy.returncode, healthy.stderr) == (0, b"")
    port = str(installation.port("readers"))
    _, *probe = (word.replace("9101", port) for word in SERVICES["readers"]["healthcheck"]["test"])
    assert probe[0] == "python"
    subprocess.run([sys.executable, *probe[1:]], check=True, timeout=30)
    assert "payments" in installation.run("ops")


def test_installation_survives_the_restart_of_any_part(installation: Installation) -> None:
    """Each service is killed, and each server ends all sessions; what a service does, Docker starts again."""
    for name in LOOPS:
        installation.kill(name)
        installation.start(name)
        installation.answers()
    for server in ("postgres", "rabbitmq"):
        installation.end_sessions(server)
        installation.answers()
    assert installation.runs_all
    installation.migrate()  # beside all of it, as with a new version
    installation.answers()
    logs = installation.stop_all()
    assert logs["worker"].count("outage_began") >= len(("postgres", "rabbitmq"))
    assert "scheduling what falls due" in logs["scheduler"]
    assert not [log for log in logs.values() if "ACCESS_REFUSED" in log or "denied" in log]


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("mode", ["fast", "immediate"])
def test_installation_survives_the_restart_of_its_servers(secrets: Path, mode: StopMode) -> None:
    with (
        Postgres.start(memory_folder()) as postgres,
        RabbitMQ.start(memory_folder()) as rabbitmq,
        Installation(services("compose"), postgres, rabbitmq, secrets) as installation,
    ):
        installation.load_definitions(commands_of("definitions")[0])
        installation.migrate()
        for name in LOOPS:
            installation.start(name)
        for server in (postgres, rabbitmq):
            installation.answers()
            server.restart(mode)
        installation.answers()
        assert installation.runs_all
        installation.stop_all()


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
