"""Services as the Compose file, the systemd units and the Kubernetes manifests describe them."""

import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from tests.support.forked_python import ROOT
from worker.settings import ENV_PREFIX

COMPOSE_FILE = ROOT / "docker-compose.yml"
DEPLOY = ROOT / "worker" / "deploy"
#: Folder of the secrets on a machine with systemd.
SECRETS = "/etc/billing-worker/secrets"
UNITS, MANIFESTS = DEPLOY / "systemd", DEPLOY / "kubernetes"
PROGRAM = "billing-worker"
FORMATS = ("compose", "systemd", "kubernetes")
#: Services that go on until SIGTERM, by the name that they have in every format.
LOOPS = ("worker", "scheduler", "readers")
#: Service for the command line of operators; of systemd it is a shell with variables.
OPS = "ops"


@dataclass(frozen=True)
class DeployedService:
    """Service: the words behind ``billing-worker``, its variables, and the folder that holds its secrets."""

    name: str
    words: tuple[str, ...]
    environment: Mapping[str, str]
    secrets: str

    def settings(self, secrets: Path) -> dict[str, str]:
        """Return its settings by name, with its secrets in the folder ``secrets``."""
        return {
            variable.removeprefix(ENV_PREFIX).lower(): value.replace(self.secrets, str(secrets))
            for variable, value in self.environment.items()
        }

    def arguments(self, secrets: Path) -> list[str]:
        """Return its words, with its secrets in the folder ``secrets``."""
        return [word.replace(self.secrets, str(secrets)) for word in self.words]


def services(form: str) -> dict[str, DeployedService]:
    """Return the services of a format, by name."""
    found = {"compose": _of_compose, "systemd": _of_units, "kubernetes": _of_manifests}[form]()
    return {service.name: service for service in found}


# -- Compose ----------------------------------------------------------------------------------------------


def _of_compose() -> Iterator[DeployedService]:
    compose = yaml.safe_load(COMPOSE_FILE.read_text())
    for name, service in compose["services"].items():
        if "build" in service:
            program, *words = service["command"]
            assert program == PROGRAM
            yield DeployedService(name, tuple(words), service.get("environment", {}), "/run/secrets")


def dockerfile() -> list[list[str]]:
    """Return the words of each line of the image's Dockerfile."""
    services = yaml.safe_load(COMPOSE_FILE.read_text())["services"].values()
    (text,) = {service["build"]["dockerfile_inline"] for service in services if "build" in service}
    return [line.split() for line in text.splitlines()]


# -- systemd ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SystemdUnit:
    """Unit of systemd: for each section the directives, with all of their values in order."""

    name: str
    sections: Mapping[str, Mapping[str, list[str]]]

    def one(self, directive: str, section: str = "Service") -> str:
        """Return the value of a directive that is given once."""
        (value,) = self.sections[section][directive]
        return value

    def all(self, directive: str, section: str = "Service") -> list[str]:
        """Return the values of a directive; none where it isn't given."""
        return self.sections[section].get(directive, [])

    @property
    def commands(self) -> list[list[str]]:
        """Return the words of each ``ExecStart=``."""
        return [shlex.split(line) for line in self.all("ExecStart")]

    @property
    def credentials(self) -> dict[str, str]:
        """Return the files of the credentials, by name."""
        return dict(credential.split(":", 1) for credential in self.all("LoadCredential"))

    @property
    def environment(self) -> dict[str, str]:
        """Return the variables: those of files win over those of the unit, as systemd has it."""
        found = dict(variable.split("=", 1) for variable in self.all("Environment"))
        for file in self.all("EnvironmentFile"):
            found |= environment_file(UNITS / "etc" / Path(file).name)
        return found


def environment_file(path: Path) -> dict[str, str]:
    """Return the variables of a file for ``EnvironmentFile=``."""
    lines = [line for line in path.read_text().splitlines() if line and not line.startswith("#")]
    return dict(shlex.split(line)[0].split("=", 1) for line in lines)


@cache
def units() -> dict[str, SystemdUnit]:
    """Return the units, by their names without ``billing-`` and ``.service``."""
    return {path.stem.removeprefix("billing-"): _unit(path) for path in sorted(UNITS.glob("*.service"))}


def _unit(path: Path) -> SystemdUnit:
    sections: dict[str, dict[str, list[str]]] = {}
    section: dict[str, list[str]] = {}
    for line in path.read_text().splitlines():
        if line.startswith("["):
            section = sections.setdefault(line.strip("[]"), {})
        elif line and not line.startswith("#"):
            directive, value = line.split("=", 1)
            section.setdefault(directive, []).append(value)
    return SystemdUnit(path.name, sections)


def _of_units() -> Iterator[DeployedService]:
    for name, unit in units().items():
        program, *words = unit.commands[0]
        assert Path(program).name == PROGRAM
        yield DeployedService(name, tuple(words), unit.environment, "%d")
    variables = {
        **environment_file(UNITS / "etc/settings.env"),
        **environment_file(UNITS / "etc/ops.env"),
    }
    yield DeployedService(OPS, ("status",), variables, SECRETS)


# -- Kubernetes -------------------------------------------------------------------------------------------


@cache
def manifests() -> list[dict[str, Any]]:
    """Return the objects of all manifests, without the kustomizations."""
    paths = sorted(path for path in MANIFESTS.rglob("*.yaml") if path.stem != "kustomization")
    return [found for path in paths for found in yaml.safe_load_all(path.read_text())]


def pods() -> dict[str, dict[str, Any]]:
    """Return the specification of each pod, by the name of its only container."""
    specifications = [
        found["spec"] if found["kind"] == "Pod" else found["spec"]["template"]["spec"]
        for found in manifests()
        if found["kind"] in {"Deployment", "Job", "Pod"}
    ]
    return {pod["containers"][0]["name"]: pod for pod in specifications}


def _of_manifests() -> Iterator[DeployedService]:
    shared = {found["metadata"]["name"]: found["data"] for found in manifests() if "data" in found}
    for name, pod in pods().items():
        (container,) = pod["containers"]
        words = container["args"]
        if name == OPS:
            assert container["command"] == ["sleep"]
            words = ["status"]
        else:
            assert container["command"] == [PROGRAM]
        environment: dict[str, str] = {}
        for source in container.get("envFrom", []):
            environment |= shared[source["configMapRef"]["name"]]
        environment |= {variable["name"]: variable["value"] for variable in container["env"]}
        mount, *_ = container["volumeMounts"]
        yield DeployedService(name, tuple(words), environment, mount["mountPath"])
