"""Checks of docker-compose.yml without an engine: validity, order, no secrets, commands that run."""

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from tests.support.postgres_server import postgres_binaries
from tests.support.processes import WorkerProcesses, run_cli
from tests.support.provision import PostgresServer, RabbitMQServer
from tests.support.rabbit_client import RabbitClient
from tests.support.rabbitmq_server import RabbitMQ
from worker.cli.root import cli
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
    assert list(SERVICES) == ["rabbitmq", "postgres", "migrate", "topology", "worker", "scheduler"]


def test_servers_keep_their_data_in_volumes() -> None:
    mounted = {
        mount.partition(":")[0] for name in ("rabbitmq", "postgres") for mount in SERVICES[name]["volumes"]
    }
    assert mounted == set(COMPOSE["volumes"])


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
        "topology": "service_completed_successfully",
    }
    assert needs == {
        "rabbitmq": {},
        "postgres": {},
        "migrate": {"postgres": "service_healthy"},
        "topology": {"rabbitmq": "service_healthy"},
        "worker": everything,
        "scheduler": everything,
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


@pytest.mark.parametrize("name", OURS)
def test_variables_are_settings(name: str) -> None:
    for variable in OURS[name]["environment"]:
        assert variable.removeprefix(ENV_PREFIX).lower() in Settings.model_fields


def interpolated(text: str, **variables: str) -> str:
    return re.sub(r"\$\{(\w+):\?[^}]*\}", lambda match: variables[match.group(1)], text)


@pytest.mark.parametrize("name", OURS)
def test_variables_are_valid_settings(name: str) -> None:
    values = {
        variable.removeprefix(ENV_PREFIX).lower(): interpolated(
            value, RABBITMQ_PASSWORD="r", POSTGRES_PASSWORD="p"
        )
        for variable, value in OURS[name]["environment"].items()
    }
    settings = load_settings(**values)
    assert settings.broker_url.get_secret_value() == "amqp://billing:r@rabbitmq:5672/"
    assert settings.database_url.get_secret_value() == "postgresql://billing:p@postgres:5432/billing"


def test_compose_file_has_no_secret_and_names_a_missing_one() -> None:
    text = FILE.read_text()
    for match in re.finditer(r"\$\{([^}]*)\}", text):
        name, _, message = match.group(1).partition(":?")
        assert name in {"RABBITMQ_PASSWORD", "POSTGRES_PASSWORD"}
        assert message.startswith(f"set {name}, ")
    passwords = re.findall(r"(?:PASS(?:WORD)?: |billing:)(\S+)", "\n".join(text.splitlines()[8:]))
    assert passwords
    assert all(password.strip('"').startswith("${") for password in passwords if not password.isdigit())


def test_server_logins_equal_those_of_the_urls() -> None:
    assert SERVICES["rabbitmq"]["environment"]["RABBITMQ_DEFAULT_USER"] == "billing"
    assert SERVICES["postgres"]["environment"]["POSTGRES_USER"] == "billing"
    assert SERVICES["postgres"]["environment"]["POSTGRES_DB"] == "billing"


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
        ("migrate", "migrate"),
        ("topology", "topology declare --policies --journal"),
        ("worker", "run --workers 2"),
        ("worker", "check"),
        ("scheduler", "scheduler"),
        ("scheduler", "check"),
    ]


@pytest.mark.parametrize(
    ("name", "words"),
    list(commands()),
    ids=lambda value: shlex.join(value) if isinstance(value, list) else value,
)
def test_command_exists_in_the_command_line(name: str, words: list[str]) -> None:
    named = [word for word in words if not word.startswith("--")]
    assert resolved(words).command.name == named[-1] or "--workers" in words, name


def test_wrong_command_raises() -> None:
    with pytest.raises(click.UsageError):
        resolved(["run", "--wrokers", "2"])
    with pytest.raises(click.UsageError):
        resolved(["topology", "declaer"])


def test_commands_run_in_order_on_real_servers(
    postgres: PostgresServer, rabbitmq: RabbitMQServer, bare_broker_url: str
) -> None:
    database = "test_compose"
    postgres.databases.create_database(database)
    settings = load_settings(
        broker_url=bare_broker_url,
        management_url=rabbitmq.address.management_url,
        database_url=postgres.address.url(database),
    )
    ours = {(name, words[0]): words for name, words in commands()}
    try:
        assert run_cli(settings, *ours["migrate", "migrate"]).returncode == 0
        assert run_cli(settings, *ours["topology", "topology"]).returncode == 0
        with WorkerProcesses(settings) as processes, RabbitClient(bare_broker_url) as rabbit:
            command, *options = ours["worker", "run"]
            assert command == "run"
            worker = processes.start(*options)
            opened = {"type": "account.open", "referenceId": "o", "userId": "ann", "tier": "free"}
            assert rabbit.request(opened)["status"] == "applied"
            healthy = run_cli(settings, *ours["worker", "check"])
            assert (healthy.returncode, healthy.stderr) == (0, b"")
            scheduler = processes.start(*ours["scheduler", "scheduler"], module="worker.__main__")
            assert scheduler.stderr is not None
            assert b"scheduling what falls due" in scheduler.stderr.readline()
            assert processes.stop(scheduler)[0] == 0
            assert processes.stop(worker)[0] == 0
    finally:
        postgres.databases.drop_database(database)


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
