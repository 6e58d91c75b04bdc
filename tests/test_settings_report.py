"""Report on the settings: no secrets, the place of each value, and the nearest name of a misspelled one."""

import json
import os
from pathlib import Path

import pytest

from worker.cli.bridge import BridgeSettings
from worker.cli.console import ConsoleSettings
from worker.settings import Settings, load_settings
from worker.settings_report import (
    OTHER_NAMES,
    changed_settings,
    default_settings,
    differences,
    effective_settings,
    known_names,
    report,
    settings_hash,
    unknown_names,
    variable_of,
)

SECRET = "s3cr3t-Pa55"


@pytest.fixture(autouse=True)
def nothing_around(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("BILLING_")]:
        monkeypatch.delenv(name)


def test_report_shows_no_password() -> None:
    settings = load_settings(
        broker_url=f"amqp://app:{SECRET}@mq/",
        database_url=f"postgresql://app:{SECRET}@db/billing",
        management_url=f"http://app:{SECRET}@mq:15672",
    )
    shown = json.dumps(effective_settings(settings))
    assert SECRET not in shown
    assert "amqp://app:***@mq/" in shown


def test_report_has_each_setting_but_the_names_of_secret_files() -> None:
    left_out = {variable_of(name) for name in Settings.model_fields} - set(default_settings())
    assert left_out
    assert all(name.endswith(("_URL_FILE", "_PASSWORD_FILE")) for name in left_out)


def test_changed_settings_are_those_that_differ_from_the_defaults() -> None:
    assert changed_settings(load_settings(batch_size=500)) == {}
    assert changed_settings(load_settings(batch_size=11, senders={"usage.*": ("app",)})) == {
        "BILLING_BATCH_SIZE": 11,
        "BILLING_SENDERS": {"usage.*": ["app"]},
    }


def test_hash_is_one_for_the_processes_of_a_run_and_another_for_other_settings() -> None:
    common = settings_hash(load_settings())
    assert common == settings_hash(load_settings(workers=4, metrics_port=9100, with_scheduler=True))
    assert common != settings_hash(load_settings(tries=4))


def test_hash_says_nothing_of_a_password() -> None:
    one, other = (load_settings(broker_url=f"amqp://app:{word}@mq/") for word in ("one", "other"))
    assert settings_hash(one) == settings_hash(other)


def test_difference_of_two_workers_has_both_values() -> None:
    own = changed_settings(load_settings(tries=4, batch_size=10, workers=2))
    others = changed_settings(load_settings(batch_size=20))
    assert differences(own, others) == {"BILLING_BATCH_SIZE": (10, 20), "BILLING_TRIES": (4, 3)}


def test_setting_of_another_version_differs_from_nothing_known() -> None:
    assert differences({}, {"BILLING_OF_LATER": 1}) == {"BILLING_OF_LATER": (None, 1)}


def test_each_value_has_its_source(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("password").write_text(SECRET)
    Path("password").chmod(0o600)
    monkeypatch.setenv("billing_batch_size", "11")
    monkeypatch.setenv("BILLING_FLOOD_IN_A_ROW", "7")
    monkeypatch.setenv("BILLING_DATABASE_URL", "postgresql://app@db/billing")
    monkeypatch.setenv("BILLING_DATABASE_PASSWORD_FILE", str(Path("password").absolute()))
    settings = load_settings(tries=5)
    lines = {"BILLING_BATCH_SIZE": "12", "BILLING_PREFETCH": "13"}
    found = {one.variable: one.source for one in report(settings, os.environ, lines, flags=["tries"])}
    assert found["BILLING_TRIES"] == "flag"
    assert found["BILLING_BATCH_SIZE"] == "environment"
    assert found["BILLING_PREFETCH"] == ".env"
    assert found["BILLING_MAX_CONSECUTIVE_FAULTS"] == "environment"
    assert found["BILLING_DATABASE_URL"] == "environment, file of BILLING_DATABASE_PASSWORD_FILE"
    assert found["BILLING_BROKER_URL"] == "default"


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("BILLING_BATCHSIZE", "BILLING_BATCH_SIZE"),
        ("billing_senderz", "BILLING_SENDERS"),
        ("BILLING_MAX_CONSECUTIVE_FAULT", "BILLING_MAX_CONSECUTIVE_FAULTS"),
        ("BILLING_CONSOLE_TRUSTED_PROXY", "BILLING_CONSOLE_TRUSTED_PROXIES"),
        ("BILLING_QQQQQQ", None),
    ],
)
def test_unknown_name_has_its_nearest(name: str, nearest: str | None) -> None:
    found = unknown_names([name])
    assert [one.nearest for one in found] == [nearest]
    assert (nearest or "see `billing-worker config`") in str(found[0])


def test_known_names_and_those_of_others_are_not_unknown() -> None:
    assert unknown_names([*known_names(), "BILLINGS", "OTHER_NAME", "_BILLING_WORKER_COMPLETE"]) == []


def test_variables_of_a_service_of_kubernetes_are_not_unknown() -> None:
    names = [
        "BILLING_DB_SERVICE_HOST",
        "BILLING_DB_SERVICE_PORT",
        "BILLING_DB_PORT",
        "BILLING_DB_PORT_5432_TCP",
    ]
    assert unknown_names(names) == []
    assert [one.name for one in unknown_names(names[1:3])] == ["BILLING_DB_PORT", "BILLING_DB_SERVICE_PORT"]


def test_settings_of_other_commands_are_known() -> None:
    of_others = {
        f"{settings.model_config['env_prefix']}{name}".upper()
        for settings in (BridgeSettings, ConsoleSettings)
        for name in settings.model_fields
    }
    assert of_others == OTHER_NAMES
