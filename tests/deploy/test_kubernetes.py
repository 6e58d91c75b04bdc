"""Manifests of Kubernetes: valid by its schemas, restricted, with probes and times of the program's own."""

from collections.abc import Iterator
from functools import partial
from http import HTTPStatus
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from tests.support.deployed import LOOPS, MANIFESTS, dockerfile, manifests, pods, services
from tests.support.installation import Installation
from tests.support.provision import PostgresServer, RabbitMQServer
from tests.support.waiting import eventually
from worker.runtime.probes import LIVE_PATH, READY_PATH
from worker.runtime.stop import SignalStop
from worker.settings import Settings, load_settings

#: Versions of Kubernetes: the oldest that its makers might still be asked about, and the newest known.
VERSIONS = ("1.30", kubernetes_validate.latest_version())


def kustomization(folder: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((MANIFESTS / folder / "kustomization.yaml").read_text())
    return found


#: Deployments that serve a port to an ingress, where they are wanted.
DOORS = ("serve", "bridge")


def container(name: str) -> dict[str, Any]:
    found: dict[str, Any] = pods()[name]["containers"][0]
    return found


def of_kind(kind: str) -> Iterator[dict[str, Any]]:
    return (found for found in manifests() if found["kind"] == kind)


def titled(found: dict[str, Any]) -> str:
    return f"{found['kind']}-{found['metadata']['name']}"


# -- the schemas ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("found", manifests(), ids=titled)
def test_manifest_is_valid(found: dict[str, Any], version: str) -> None:
    kubernetes_validate.validate(found, version, strict=True)


def test_misspelt_field_is_found() -> None:
    found = next(of_kind("Deployment"))
    pod = found["spec"]["template"]["spec"]
    wrong = {**pod, "terminationGracePeriod": 35}
    spec = {**found["spec"], "template": {**found["spec"]["template"], "spec": wrong}}
    with pytest.raises(kubernetes_validate.ValidationError, match="terminationGracePeriod"):
        kubernetes_validate.validate({**found, "spec": spec}, VERSIONS[-1], strict=True)


@pytest.mark.parametrize("folder", ["migrate", "run", "doors", "ops"])
def test_kustomization_has_all_of_its_folder_and_the_image(folder: str) -> None:
    found = kustomization(folder)
    files = {path.name for path in (MANIFESTS / folder).iterdir()} - {"kustomization.yaml"}
    assert found == {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "components": ["../image"],
        "resources": found["resources"],
    }
    assert set(found["resources"]) == files


def test_image_of_all_pods_is_named_in_one_place() -> None:
    found = kustomization("image")
    (image,) = found.pop("images")
    assert set(image) == {"name", "newName", "newTag"}
    assert {image["name"]} == {container(name)["image"] for name in pods()}
    assert found == {
        "apiVersion": "kustomize.config.k8s.io/v1alpha1",
        "kind": "Component",
        "namespace": "billing",
    }


def breadth(policy: dict[str, Any]) -> int:
    """Return the number of labels that a network policy asks for."""
    return len(policy["spec"]["podSelector"]["matchLabels"])


def test_selectors_find_their_pods() -> None:
    labels = {
        found["metadata"]["name"]: found["spec"]["template"]["metadata"]["labels"]
        for found in of_kind("Deployment")
    }
    for found in of_kind("Deployment"):
        assert found["spec"]["selector"]["matchLabels"] == labels[found["metadata"]["name"]]
    (budget,), (network, *doors) = (
        of_kind("PodDisruptionBudget"),
        sorted(of_kind("NetworkPolicy"), key=breadth),
    )
    assert budget["spec"]["selector"]["matchLabels"] == labels["billing-worker"]
    for every in labels.values():
        assert network["spec"]["podSelector"]["matchLabels"].items() <= every.items()
    for found in doors:
        assert found["spec"]["podSelector"]["matchLabels"] == labels[found["metadata"]["name"]]
    for found in of_kind("Service"):
        assert found["spec"]["selector"] == labels[found["metadata"]["name"]]
    assert {found["metadata"]["name"] for found in of_kind("Service")} == {
        found["metadata"]["name"] for found in doors
    }


# -- rights -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", pods())
def test_pod_meets_the_restricted_standard(name: str) -> None:
    pod = pods()[name]
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container(name)["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert {kind for volume in pod["volumes"] for kind in volume} <= {"name", "secret", "configMap"}


@pytest.mark.parametrize("name", pods())
def test_pod_runs_as_the_user_of_the_image(name: str) -> None:
    (made,) = [line for line in dockerfile() if "useradd" in line]
    identity = int(made[made.index("--uid") + 1])
    context = pods()[name]["securityContext"]
    assert {context["runAsUser"], context["runAsGroup"], context["fsGroup"]} == {identity}


@pytest.mark.parametrize("name", pods())
def test_secrets_come_as_files_that_others_can_not_read(name: str) -> None:
    volume, *_ = pods()[name]["volumes"]
    assert volume["secret"]["defaultMode"] == 0o440
    mount, *_ = container(name)["volumeMounts"]
    assert (mount["name"], mount["readOnly"]) == (volume["name"], True)
    assert not any("valueFrom" in variable for variable in container(name)["env"])


# -- probes, stop and restart -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*LOOPS, *DOORS])
def test_probes_ask_the_port_of_the_only_process(name: str, secrets: Path) -> None:
    found = container(name)
    given = services("kubernetes")[name].settings(secrets)
    settings = load_settings(**{key: value for key, value in given.items() if key in Settings.model_fields})
    port, *_ = found["ports"]
    assert (port["name"], port["containerPort"]) == ("metrics", settings.metrics_port)
    assert settings.metrics_listen == "0.0.0.0"  # noqa: S104 - the pod's
    asked = {
        probe: found[probe]["httpGet"]["path"]
        for probe in ("startupProbe", "livenessProbe", "readinessProbe")
    }
    assert asked == {"startupProbe": LIVE_PATH, "livenessProbe": LIVE_PATH, "readinessProbe": READY_PATH}
    assert all(found[probe]["httpGet"]["port"] == "metrics" for probe in asked)
    assert found["readinessProbe"]["timeoutSeconds"] > settings.database_timeout_s
    assert settings.wait_for_schema


def test_pod_has_one_process() -> None:
    assert {name: services("kubernetes")[name].words for name in LOOPS} == {
        "worker": ("run", "--workers", "1", "--readers", "0"),
        "scheduler": ("scheduler",),
        "readers": ("readers", "--readers", "1"),
    }


@pytest.mark.parametrize("name", DOORS)
def test_door_listens_on_the_port_of_its_service(name: str) -> None:
    words, (_, port) = services("kubernetes")[name].words, container(name)["ports"]
    assert words[words.index("--listen") + 1] == f"0.0.0.0:{port['containerPort']}"
    assert "--https" in words


@pytest.mark.parametrize("name", [*LOOPS, *DOORS])
def test_pod_has_time_to_stop_in_order(name: str) -> None:
    assert pods()[name]["terminationGracePeriodSeconds"] > SignalStop.GRACE_S


def test_new_pods_work_before_old_ones_go() -> None:
    for found in of_kind("Deployment"):
        assert found["spec"]["strategy"] == {
            "type": "RollingUpdate",
            "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0},
        }


def test_migration_is_tried_again_only_while_a_server_is_away() -> None:
    (job,) = of_kind("Job")
    (rule,) = job["spec"]["podFailurePolicy"]["rules"]
    assert rule["action"] == "FailJob"
    assert rule["onExitCodes"] == {"containerName": "migrate", "operator": "In", "values": [1, 2, 4, 6]}
    assert job["spec"]["template"]["spec"]["restartPolicy"] == "Never"


def test_settings_of_all_pods_are_text() -> None:
    (shared,) = of_kind("ConfigMap")
    assert all(isinstance(value, str) for value in shared["data"].values())
    assert {name.removeprefix("BILLING_").lower() for name in shared["data"]} <= set(Settings.model_fields)


# -- the commands -----------------------------------------------------------------------------------------


@pytest.fixture
def installation(postgres: PostgresServer, rabbitmq: RabbitMQServer, secrets: Path) -> Iterator[Installation]:
    with Installation(services("kubernetes"), postgres, rabbitmq, secrets) as installation:
        yield installation


def status(port: int, path: str) -> int:
    connection = HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    except ConnectionRefusedError:
        return 0
    finally:
        connection.close()


def is_ok(port: int, path: str) -> bool:
    return status(port, path) == HTTPStatus.OK


def test_pods_that_start_before_the_migration_live_and_get_ready_after_it(installation: Installation) -> None:
    """A pod that starts first meets a database without its login; it waits, as for the schema."""
    for name in ("worker", "scheduler"):
        assert services("kubernetes")[name].environment["BILLING_WAIT_FOR_SCHEMA"] == "true"
    installation.load_definitions(["topology", "definitions", "--passwords", "%d", "--output", "file"])
    for name in LOOPS:
        installation.start(name)
    ports = [installation.port(name) for name in LOOPS]
    for port in ports:
        eventually(partial(is_ok, port, LIVE_PATH), what="it lives")
        assert status(port, READY_PATH) == HTTPStatus.SERVICE_UNAVAILABLE
    installation.migrate()
    for port in ports:
        eventually(partial(is_ok, port, READY_PATH), what="it is ready")
    installation.answers()
    assert "payments" in installation.run("ops")
    installation.stop_all()
