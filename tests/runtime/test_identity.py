"""Names of processes, runners and operators."""

import os

import pytest

from worker.runtime.identity import login_name, process_name, runner_name


def test_process_is_named_by_its_host_and_id() -> None:
    host, _, pid = process_name().rpartition(":")
    assert (bool(host), pid) == (True, str(os.getpid()))


def test_runner_names_are_unique_and_say_where_they_run() -> None:
    names = {runner_name("console") for _ in range(100)}
    assert len(names) == 100
    assert all(name.startswith(f"console:{process_name()}:") for name in names)
    assert runner_name().startswith(f"{process_name()}:")


@pytest.mark.parametrize("error", [KeyError, OSError, ImportError])
def test_user_without_a_name_is_unknown(monkeypatch: pytest.MonkeyPatch, error: type[Exception]) -> None:
    def fail() -> str:
        raise error

    monkeypatch.setattr("getpass.getuser", fail)
    assert login_name() is None


def test_user_has_a_login_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGNAME", "ann")
    assert login_name() == "ann"
