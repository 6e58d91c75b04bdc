"""Units of systemd: valid for its own verifier, hardened, stopped and watched by the program's own times."""

import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from tests.support.deployed import DEPLOY, LOOPS, SECRETS, UNITS, environment_file, services, units
from tests.support.installation import Installation
from tests.support.notify_socket import NotifySocket
from tests.support.pages import code_spans, tables
from tests.support.private_server import free_port
from tests.support.provision import PostgresServer, RabbitMQServer, systemd_analyze
from tests.support.rabbitmq_server import RabbitMQ
from worker.broker.roles import USERS
from worker.runtime.process_health import LIVE_S
from worker.runtime.stop import SignalStop
from worker.runtime.supervisor import _STOP_GRACE_S, LIMIT_EXIT, UNSUPPORTED_EXIT

#: Programs that the units start, on the machine of an installation.
PROGRAMS = ("/opt/billing-worker/bin/billing-worker", "/usr/sbin/rabbitmqctl", "/bin/kill")
#: Units that serve a port to a proxy on the machine, where they are wanted.
DOORS = ("serve", "bridge", "console")
#: Exposure from 0 to 100 that `systemd-analyze security` may find; a unit without hardening has 96.
EXPOSURE = 15

Analyze = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """Root folder of a machine with the units and what they start."""
    root = tmp_path / "machine"
    folder = root / "etc/systemd/system"
    shutil.copytree(UNITS, folder)
    for name in ("network-online", "multi-user", "sysinit", "basic", "shutdown"):
        (folder / f"{name}.target").write_text("[Unit]\n")
    for name in ("rabbitmq-server", "postgresql"):
        (folder / f"{name}.service").write_text("[Service]\nExecStart=/bin/kill\n")
    for program in PROGRAMS:
        place = root / program[1:]
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text("#!/bin/sh\n")
        place.chmod(0o755)
    return root


@pytest.fixture
def analyze(machine: Path) -> Analyze:
    def run(verb: str, *words: str) -> "subprocess.CompletedProcess[str]":
        command = [str(systemd_analyze()), verb, f"--root={machine}", *words]
        return subprocess.run(command, capture_output=True, text=True, timeout=60)

    return run


def paths(machine: Path) -> list[str]:
    return [str(machine / "etc/systemd/system" / unit.name) for unit in units().values()]


# -- systemd's own verifier -------------------------------------------------------------------------------


def test_units_are_valid(analyze: Analyze, machine: Path) -> None:
    verified = analyze("verify", "--man=no", *paths(machine))
    assert (verified.returncode, verified.stdout + verified.stderr) == (0, "")


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("WatchdogSec=120", "WatchdogSeconds=120"),
        ("KillMode=mixed", "KillMode=gentle"),
        ("ExecStart=/opt/billing-worker/", "ExecStart=/opt/elsewhere/"),
    ],
)
def test_wrong_unit_is_found(analyze: Analyze, machine: Path, right: str, wrong: str) -> None:
    unit = machine / "etc/systemd/system/billing-worker.service"
    text = unit.read_text()
    assert right in text
    unit.write_text(text.replace(right, wrong))
    verified = analyze("verify", "--man=no", str(unit))
    assert verified.stderr != ""


def test_units_expose_little(analyze: Analyze) -> None:
    names = [unit.name for unit in units().values()]
    judged = analyze("security", "--offline=true", f"--threshold={EXPOSURE}", "--no-pager", *names)
    assert judged.returncode == 0, judged.stdout


# -- order ------------------------------------------------------------------------------------------------


def test_units_are_all_there() -> None:
    assert set(units()) == {*LOOPS, *DOORS, "migrate", "topology"}


@pytest.mark.parametrize("name", units())
def test_variables_of_files_hide_none_of_the_unit(name: str) -> None:
    unit = units()[name]
    own = [variable.partition("=")[0] for variable in unit.all("Environment")]
    files = [environment_file(UNITS / "etc" / Path(file).name) for file in unit.all("EnvironmentFile")]
    names = [*own, *(variable for file in files for variable in file)]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("name", units())
def test_files_of_variables_are_installed_where_the_unit_reads_them(name: str) -> None:
    for file in units()[name].all("EnvironmentFile"):
        assert file == f"{Path(SECRETS).parent}/{Path(file).name}"


@pytest.mark.parametrize("name", DOORS)
def test_door_is_watched_and_has_time_to_stop(name: str) -> None:
    unit = units()[name]
    assert (unit.one("Type"), unit.one("Restart")) == ("notify", "always")
    assert float(unit.one("WatchdogSec")) >= 2 * LIVE_S
    assert float(unit.one("TimeoutStopSec")) > SignalStop.GRACE_S


@pytest.mark.parametrize("name", LOOPS)
def test_loop_starts_at_boot_after_servers_and_migration_and_waits_for_the_schema(name: str) -> None:
    unit = units()[name]
    after = unit.one("After", "Unit").split()
    assert {"postgresql.service", "rabbitmq-server.service", "billing-migrate.service"} <= set(after)
    assert "--wait-for-schema" in unit.commands[0]
    assert unit.one("WantedBy", "Install") == "multi-user.target"


@pytest.mark.parametrize("name", ["migrate", "topology"])
def test_preparation_runs_once_and_only_when_it_is_asked_for(name: str) -> None:
    unit = units()[name]
    assert unit.one("Type") == "oneshot"
    assert "Install" not in unit.sections


def test_definitions_are_written_where_they_are_imported_from() -> None:
    unit = units()["topology"]
    writing, importing = unit.commands
    assert writing[writing.index("--output") + 1] == importing[-1]
    assert importing[-1].startswith(f"%t/{unit.one('RuntimeDirectory')}/")
    assert importing[-2] == "import_definitions"


# -- stop, restart and watchdog ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", LOOPS)
def test_loop_has_time_to_stop_in_order(name: str) -> None:
    unit = units()[name]
    assert unit.one("KillMode") == "mixed"
    assert float(unit.one("TimeoutStopSec")) > _STOP_GRACE_S


@pytest.mark.parametrize("name", LOOPS)
def test_loop_is_restarted_but_where_a_restart_mends_nothing(name: str) -> None:
    unit = units()[name]
    assert unit.one("Restart") == "always"
    assert unit.one("StartLimitIntervalSec", "Unit") == "0"
    assert {int(code) for code in unit.one("RestartPreventExitStatus").split()} == {
        LIMIT_EXIT,
        UNSUPPORTED_EXIT,
    }


@pytest.mark.parametrize("name", LOOPS)
def test_watchdog_is_as_patient_as_the_program(name: str) -> None:
    unit = units()[name]
    assert (unit.one("Type"), unit.one("NotifyAccess")) == ("notify", "main")
    assert float(unit.one("WatchdogSec")) >= 2 * LIVE_S


# -- secrets and ports ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", units())
def test_unit_has_the_secrets_that_it_reads_and_no_others(name: str) -> None:
    unit = units()[name]
    read = {Path(value).name for variable, value in unit.environment.items() if variable.endswith("_FILE")}
    if name == "migrate":
        read |= {"billing_worker", "billing_reader"}
    read |= {Path(word).name for word in unit.commands[0] if word.startswith("%d/")}
    if name == "topology":
        read = {user.name for user in USERS}
    assert unit.credentials == {secret: f"{SECRETS}/{secret}" for secret in read}


def test_ports_of_processes_are_apart() -> None:
    found = services("systemd")
    names = (*LOOPS, "serve", "bridge")
    first = {name: int(found[name].environment["BILLING_METRICS_PORT"]) for name in names}
    processes = dict.fromkeys(names, 1) | {"worker": int(found["worker"].words[2])}
    ports = [first[name] + place for name in names for place in range(processes[name])]
    assert len(set(ports)) == len(ports)


def test_page_has_the_ports_of_each_unit() -> None:
    (rows,) = tables((DEPLOY / "SYSTEMD.md").read_text())
    listed = {code_spans(unit)[0].removeprefix("billing-"): ports for unit, *_, ports in rows}
    assert set(listed) == set(units())
    for name in LOOPS:
        assert listed[name].split(", ")[0] == units()[name].environment["BILLING_METRICS_PORT"]


# -- the commands -----------------------------------------------------------------------------------------


@pytest.fixture
def installation(postgres: PostgresServer, rabbitmq: RabbitMQServer, secrets: Path) -> Iterator[Installation]:
    with Installation(services("systemd"), postgres, rabbitmq, secrets) as installation:
        yield installation


def import_again(server: RabbitMQServer, file: Path) -> None:
    """Import definitions by the unit's own command, where the node is ours to ask."""
    if isinstance(server, RabbitMQ):
        _, (program, *words, _file) = units()["topology"].commands
        script = server._script.with_name(Path(program).name)
        file.chmod(0o644)
        with file.open("rb") as definitions:  # the node's user can't enter our folder
            subprocess.run(
                [str(script), *words], env=server._environment(), stdin=definitions, check=True, timeout=60
            )


def test_units_work_and_report_to_systemd(
    installation: Installation, rabbitmq: RabbitMQServer, secrets: Path, tmp_path: Path
) -> None:
    with ExitStack() as stack:
        managers = {name: stack.enter_context(closing(NotifySocket(str(tmp_path / name)))) for name in LOOPS}
        installation.load_definitions(list(services("systemd")["topology"].words))
        import_again(rabbitmq, tmp_path / "definitions.json")
        installation.migrate()
        for name, manager in managers.items():
            watchdog = str(int(units()[name].one("WatchdogSec")) * 1_000_000)
            installation.start(name, NOTIFY_SOCKET=manager.address, WATCHDOG_USEC=watchdog)
        installation.run(
            "serve", "tokens", "add", "app", "--scope", "accounts", "--tokens", str(secrets / "tokens")
        )
        managers["serve"] = stack.enter_context(closing(NotifySocket(str(tmp_path / "serve"))))
        place = f"127.0.0.1:{free_port()}"
        installation.start("serve", NOTIFY_SOCKET=managers["serve"].address, BILLING_HTTP_LISTEN=place)
        for name, manager in managers.items():
            lines = manager.until("READY=1")
            assert ("WATCHDOG=1" in lines) == (name in LOOPS)
        installation.answers()
        assert "payments" in installation.run("ops")
        installation.stop_all()
        for manager in managers.values():
            manager.until("STOPPING=1")
