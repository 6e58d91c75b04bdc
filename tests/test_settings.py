"""Settings: their sources and precedence, errors about bad values, and passwords that are never shown."""

import os
import re
import shlex
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.pages import page, section
from worker.catalog import load_catalog
from worker.errors import ConfigurationError
from worker.runtime.secret_urls import with_secrets
from worker.settings import (
    Settings,
    broker_user,
    config_digest,
    environment_of,
    load_settings,
    own_users,
    redacted,
)

SECRET = "s3cr3t-Pa55"


@pytest.fixture(autouse=True)
def nothing_around(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("BILLING_")]:
        monkeypatch.delenv(name)


# -- precedence -------------------------------------------------------------------------------------------


def test_flag_precedes_variable_and_variable_precedes_file(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert load_settings().batch_size == 500
    Path(".env").write_text("BILLING_BATCH_SIZE=11\nBILLING_PREFETCH=12\nOTHER=13\n")
    assert (load_settings().batch_size, load_settings().prefetch) == (11, 12)
    monkeypatch.setenv("BILLING_BATCH_SIZE", "21")
    assert (load_settings().batch_size, load_settings().prefetch) == (21, 12)
    assert load_settings(batch_size=31).batch_size == 31


def test_omitted_flag_changes_no_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BILLING_WORKERS", "4")
    assert load_settings(workers=None).workers == 4


def test_zero_is_a_value(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BILLING_METRICS_PORT", "9100")
    assert load_settings(metrics_port=0).metrics_port == 0


def test_variable_names_may_be_lower_case(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("billing_workers", "3")
    assert load_settings().workers == 3


def test_reply_to_prefixes_are_empty_by_default() -> None:
    assert load_settings().reply_to_prefixes == ()


def test_reply_prefixes_are_separated_by_commas_and_may_be_empty(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("BILLING_REPLY_TO_PREFIXES", "billing.replies, app.answers ,")
    assert load_settings().reply_to_prefixes == ("billing.replies", "app.answers")
    monkeypatch.setenv("BILLING_REPLY_TO_PREFIXES", "")
    assert load_settings().reply_to_prefixes == ()


def test_senders_are_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BILLING_SENDERS", '{"payment.*": ["gateway", "operator"]}')
    assert load_settings().senders == {"payment.*": ("gateway", "operator")}


def test_senders_may_have_prefixes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BILLING_SENDERS", '{"usage.*": {"ocr": "ocr-", "app": ""}, "payment.*": ["gateway"]}')
    assert load_settings().senders == {"usage.*": {"ocr": "ocr-", "app": ""}, "payment.*": ("gateway",)}


@pytest.mark.parametrize(
    ("value", "error"),
    [
        ('{"usage.*": ["a"], "usage.*": ["b"]}', r"BILLING_SENDERS: names a pattern or a user twice"),
        ('{"usage.*": {"a": "x-", "a": ""}}', r"BILLING_SENDERS: names a pattern or a user twice"),
        ('{"usage.*": "a"}', r"BILLING_SENDERS \(usage\.\*\): must be a list of users, or an object"),
        ('{"usage.*": null}', r"BILLING_SENDERS \(usage\.\*\): must be a list of users, or an object"),
        ('{"usage.*": {"a": 5}}', r"BILLING_SENDERS \(usage\.\*\.a\): .*string"),
        ('{"usage.*": {"a": ["x-"]}}', r"BILLING_SENDERS \(usage\.\*\.a\): .*string"),
        ("[]", r"BILLING_SENDERS: .*dictionary"),
        ('{"payments.*": ["a"]}', r"BILLING_SENDERS: 'payments\.\*' matches no type; write a type such as"),
        ('{"usage.*": ["a"], "": [], "Usage.deduct": []}', r"BILLING_SENDERS: '', 'Usage.deduct' matches no"),
    ],
)
def test_sender_rule_of_another_shape_raises(monkeypatch: pytest.MonkeyPatch, value: str, error: str) -> None:
    monkeypatch.setenv("BILLING_SENDERS", value)
    with pytest.raises(ConfigurationError, match=error):
        load_settings()


@pytest.mark.parametrize("off", ["0", "off", " OFF "])
@pytest.mark.parametrize("name", ["BILLING_MAX_CONSECUTIVE_FAULTS", "BILLING_FLOOD_IN_A_ROW"])
def test_limit_of_faults_can_be_switched_off(monkeypatch: pytest.MonkeyPatch, name: str, off: str) -> None:
    assert load_settings().max_consecutive_faults == 100
    monkeypatch.setenv(name, off)
    assert load_settings().max_consecutive_faults == 0


def test_workers_with_equal_rules_have_one_digest() -> None:
    catalog = load_catalog()
    digest = config_digest(load_settings(), catalog)
    assert digest == config_digest(load_settings(batch_size=1, broker_url="amqp://h"), catalog)
    assert digest != config_digest(load_settings(max_quantity=10), catalog)
    assert digest != config_digest(
        load_settings(), catalog.model_copy(update={"packages": catalog.packages[:1]})
    )


# -- bad values -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("BROKER_URL", SECRET),
        ("BROKER_URL", f"amqp://user:{SECRET}@{SECRET}@host/"),
        ("BROKER_URL", f"amqp://user:{SECRET}/x@host/"),
        ("BROKER_URL", f"amqp://user:{SECRET}"),
        ("DATABASE_URL", f"postgresql://user:{SECRET}#x@host/db"),
        ("DATABASE_URL", f"postgresql:///db?user=u&password={SECRET}@x"),
        ("DATABASE_URL", f"host=db password={SECRET}"),
        ("WORKERS", SECRET),
        ("WORKERS", "0"),
        ("MAX_CONSECUTIVE_FAULTS", "-1"),
        ("ON_LIMIT", "wait"),
        ("DATABASE_TIMEOUT_S", "0"),
        ("CONSUMER_TIMEOUT_S", "half"),
        ("BATCH_SIZE", "2001"),
        ("PREFETCH", "2001"),
        ("TRIES", "1.5"),
        ("MAX_QUANTITY", "9223372036854775808"),
        ("METRICS_PORT", "-1"),
        ("ID_PATTERN", "[a-z"),
        ("ID_PATTERN", "(?=a).*"),
        ("ID_PATTERN", "[a-z]{1,9}"),
        ("WITH_SCHEDULER", SECRET),
        ("SCHEDULER_INTERVAL_S", "-2"),
        ("SCHEDULER_INTERVAL_S", "inf"),
        ("SCHEDULER_RATE", "0.5"),
        ("SENDERS", "{" + SECRET),
        ("SENDERS", f'"{SECRET}"'),
        ("SENDERS", f'{{"payment.*": "{SECRET}"}}'),
        ("BROKER_URL", f"amqp://u:{SECRET}\udce9@h?x=\udce9"),
        ("DATABASE_URL", f"postgresql://u:{SECRET}@h/db?\udce9=1"),
        ("LOG_LEVEL", SECRET),
        ("LOG_FORMAT", SECRET),
    ],
)
def test_bad_variable_raises_with_its_name_and_without_its_value(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(f"BILLING_{name}", value)
    with pytest.raises(ConfigurationError) as caught:
        load_settings()
    assert f"BILLING_{name}" in str(caught.value)
    assert value not in str(caught.value)
    assert SECRET not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("partitions", ["12", "-8", "1", "65"])
def test_number_of_partitions_serves_whole_slots(monkeypatch: pytest.MonkeyPatch, partitions: str) -> None:
    monkeypatch.setenv("BILLING_PARTITIONS", partitions)
    with pytest.raises(ConfigurationError, match=r"BILLING_PARTITIONS: .* use 8, 16, 32 or 64, or 0"):
        load_settings()


def test_embedded_broker_has_no_partitions(tmp_path: Path) -> None:
    url = f"sqla+sqlite:///{tmp_path}/broker.db"
    assert load_settings(broker_url=url).partitions == 0
    with pytest.raises(ConfigurationError, match="BILLING_PARTITIONS: the embedded broker has no partitions"):
        load_settings(broker_url=url, partitions=8)


def test_all_bad_variables_are_named_in_one_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BILLING_WORKERS", "many")
    monkeypatch.setenv("BILLING_TRIES", "0")
    with pytest.raises(ConfigurationError, match=r"BILLING_WORKERS: .*; BILLING_TRIES: "):
        load_settings()


def test_bad_variable_raises_with_the_place_inside_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BILLING_SENDERS", '{"payment.*": ["gateway", 5]}')
    with pytest.raises(ConfigurationError, match=r"BILLING_SENDERS \(payment\.\*\.1\): "):
        load_settings()


def test_binary_settings_file_raises_with_its_name() -> None:
    Path(".env").write_bytes(b"BILLING_WORKERS=\xff\xfe\n")
    with pytest.raises(ConfigurationError, match=r"the file \.env is not UTF-8"):
        load_settings()


def test_bad_value_in_the_file_is_not_shown() -> None:
    Path(".env").write_text(f"BILLING_BROKER_URL=amqp://u:{SECRET}@{SECRET}@h\n")
    with pytest.raises(ConfigurationError) as caught:
        load_settings()
    assert "BILLING_BROKER_URL" in str(caught.value)
    assert SECRET not in str(caught.value)


# -- passwords --------------------------------------------------------------------------------------------


def test_printed_settings_hide_their_urls() -> None:
    whole = load_settings(broker_url=f"amqp://u:{SECRET}@h/", database_url=f"postgresql://u:{SECRET}@h/d")
    assert SECRET not in f"{whole} {whole!r} {whole.model_dump()} {whole.model_dump_json()}"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("amqp://user:secret@host:5672/vhost", "amqp://user:***@host:5672/vhost"),
        ("amqp://user:s%40cret@host/%2F", "amqp://user:***@host/%2F"),
        ("amqp://user@host/", "amqp://user@host/"),
        ("amqp://:secret@host/", "amqp://:***@host/"),
        ("amqp://host", "amqp://host"),
        ("amqps://user:secret@[::1]:5671/v", "amqps://user:***@[::1]:5671/v"),
        ("postgresql://user:secret@/db?host=/run", "postgresql://user:***@/db"),
        ("postgresql://host/db?password=secret", "postgresql://host/db"),
        ("postgresql:///db?password=secret", "postgresql:///db"),
        ("sqlite:///ledger.db", "sqlite:///ledger.db"),
        ("sqlite:////var/lib/a@b.db", "sqlite:////var/lib/a@b.db"),
        ("sqla+sqlite:///broker.db", "sqla+sqlite:///broker.db"),
        ("secret", "***"),
        ("user:secret@host", "***"),
        ("amqp://user:secret", "amqp://***"),
        ("amqp://user:sec@ret@host", "amqp://***"),
        ("amqp://user:sec/ret@host", "amqp://***"),
        ("amqp://user:sec#ret@host", "amqp://***"),
        ("amqp://user:12/ret@host", "amqp://***"),
        ("amqp://user:se[cret@host", "amqp://***"),
        ("postgresql:///db?password=sec@ret", "postgresql://***"),
        ("mysql:///user:secret@host/db", "mysql://***"),
    ],
)
def test_redacted_url_has_no_password(url: str, shown: str) -> None:
    assert redacted(url) == shown


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(st.text(st.characters(codec="ascii", categories=("L", "N", "P", "S")), min_size=1, max_size=12))
def test_redaction_hides_passwords_in_invalid_urls(password: str) -> None:
    marked = f"%{password}%SECRET"
    for url in (f"amqp://user:{marked}@host:5672/v", f"postgresql://user:{marked}@host/db?x=y"):
        assert "SECRET" not in redacted(url)


@pytest.mark.parametrize(
    ("url", "user"),
    [
        ("amqp://ann:secret@host/", "ann"),
        ("amqps://a%40b:secret@host/", "a@b"),
        ("amqp://host/", "guest"),
        ("sqla+sqlite:///broker.db", None),
    ],
)
def test_broker_user_is_the_user_of_the_url(url: str, user: str | None) -> None:
    assert broker_user(load_settings(broker_url=url).broker_url) == user


@pytest.mark.parametrize(
    ("url", "named", "users"),
    [
        ("amqp://worker:x@host/", "", {"worker"}),
        ("amqp://worker:x@host/", "ops, scheduler", {"worker", "ops", "scheduler"}),
        ("sqla+sqlite:///broker.db", "", {None}),
    ],
)
def test_user_of_the_broker_url_is_always_a_worker_user(
    monkeypatch: pytest.MonkeyPatch, url: str, named: str, users: set[str | None]
) -> None:
    monkeypatch.setenv("BILLING_WORKER_USERS", named)
    assert own_users(load_settings(broker_url=url)) == users


# -- the settings of another process ----------------------------------------------------------------------


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(
    st.builds(
        Settings,
        _env_file=st.none(),
        broker_url=st.sampled_from(["amqp://u:p%40@h:1/v", "sqla+sqlite:///a b.db"]),
        database_url=st.sampled_from(["postgresql://u:p@h/d?connect_timeout=3", "sqlite:///x.db"]),
        catalog=st.none() | st.just(Path("/etc/billing/catalog.toml")),
        workers=st.integers(1, 64),
        max_quantity=st.integers(1, 2**63 - 1),
        reply_to_prefixes=st.lists(st.sampled_from(["a", "billing.replies", "ü"]), max_size=3).map(tuple),
        worker_users=st.lists(st.sampled_from(["worker", "ops-1", "ü"]), max_size=3).map(tuple),
        senders=st.dictionaries(
            st.sampled_from(["*", "usage.*", "usage.[dr]*", "payment.succeeded", "query.?tats"]),
            st.lists(st.text("xyz")).map(tuple) | st.dictionaries(st.text("xyz"), st.text("a-ü")),
        ),
        log_level=st.sampled_from(["DEBUG", "ERROR"]),
        metrics_port=st.integers(0, 65535),
        with_scheduler=st.booleans(),
        scheduler_interval_s=st.floats(0.001, 60),
        scheduler_rate=st.integers(1, 1000),
    )
)
def test_environment_carries_the_settings_to_another_process(whole: Settings) -> None:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment_of(whole).items():
            patch.setenv(name, value)
        assert load_settings() == whole


# -- secrets from files -----------------------------------------------------------------------------------


def file_with(content: bytes | str) -> str:
    path = Path("secret")
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


def test_url_comes_from_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BILLING_BROKER_URL_FILE", file_with("amqp://app:s3cret@broker/\n"))
    assert load_settings().broker_url.get_secret_value() == "amqp://app:s3cret@broker/"


def test_file_may_be_named_in_the_env_file() -> None:
    url = file_with("postgresql://billing:s3cret@db/billing\n")
    Path(".env").write_text(f"BILLING_DATABASE_URL_FILE={url}\n")
    assert load_settings().database_url.get_secret_value() == "postgresql://billing:s3cret@db/billing"


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("amqp://app@broker:5672/", "amqp://app:p%40ss%3A%2F%25%20w@broker:5672/"),
        ("amqp://app@a,amqp://app@b", "amqp://app:p%40ss%3A%2F%25%20w@a,amqp://app:p%40ss%3A%2F%25%20w@b"),
        ("amqp://app@a,app@b/x", "amqp://app:p%40ss%3A%2F%25%20w@a,app:p%40ss%3A%2F%25%20w@b/x"),
        ("amqps://app@[::1]/x", "amqps://app:p%40ss%3A%2F%25%20w@[::1]/x"),
    ],
)
def test_password_of_a_file_goes_behind_each_user_of_a_url(url: str, expected: str) -> None:
    found = with_secrets({"broker_url": url, "broker_password_file": file_with("p@ss:/% w\n")}, "BILLING_")
    assert found["broker_url"] == expected
    assert found["broker_password_file"] is None


def test_each_url_has_a_file_for_its_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BILLING_BROKER_URL", "amqp://app@broker/")
    monkeypatch.setenv("BILLING_DATABASE_URL", "postgresql://billing@db/billing")
    monkeypatch.setenv("BILLING_READ_DATABASE_URL", "postgresql://reader@replica/billing")
    for server in ("BROKER", "DATABASE", "READ_DATABASE"):
        monkeypatch.setenv(f"BILLING_{server}_PASSWORD_FILE", file_with("s3cret"))
    settings = load_settings()
    assert settings.broker_url.get_secret_value() == "amqp://app:s3cret@broker/"
    assert settings.database_url.get_secret_value() == "postgresql://billing:s3cret@db/billing"
    assert settings.read_database_url is not None
    assert settings.read_database_url.get_secret_value() == "postgresql://reader:s3cret@replica/billing"


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("", "is empty"),
        ("\n", "is empty"),
        ("one\ntwo\n", "must hold one line of visible characters"),
        (b"\xff\xfe", "can't be read: it is not UTF-8"),
        ("\ufeffamqp://h", "must hold one line of visible characters"),
    ],
)
def test_file_without_a_secret_is_refused(
    monkeypatch: pytest.MonkeyPatch, content: bytes | str, problem: str
) -> None:
    monkeypatch.setenv("BILLING_BROKER_URL_FILE", file_with(content))
    with pytest.raises(ConfigurationError) as refused:
        load_settings()
    assert str(refused.value) == f"settings: BILLING_BROKER_URL_FILE: the file secret {problem}"


def test_file_that_is_missing_or_a_folder_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BILLING_DATABASE_URL_FILE", "none")
    with pytest.raises(ConfigurationError, match="BILLING_DATABASE_URL_FILE: there is no file none"):
        load_settings()
    monkeypatch.setenv("BILLING_DATABASE_URL_FILE", ".")
    with pytest.raises(ConfigurationError, match=r"the file \. can't be read: Is a directory"):
        load_settings()


def test_file_that_may_not_be_read_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_path: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setenv("BILLING_BROKER_URL_FILE", file_with("x"))
    monkeypatch.setattr(Path, "read_bytes", refuse)  # root may read everything
    with pytest.raises(ConfigurationError, match="the file secret can't be read: Permission denied"):
        load_settings()


@pytest.mark.parametrize(
    ("variables", "problem"),
    [
        (
            {"BILLING_BROKER_URL": "amqp://h", "BILLING_BROKER_URL_FILE": "secret"},
            "BILLING_BROKER_URL and BILLING_BROKER_URL_FILE are both set",
        ),
        (
            {"BILLING_BROKER_URL": "amqp://u:p@h", "BILLING_BROKER_PASSWORD_FILE": "secret"},
            "BILLING_BROKER_URL has a password, and BILLING_BROKER_PASSWORD_FILE is set",
        ),
        (
            {"BILLING_BROKER_URL": "amqp://u:p,p@h", "BILLING_BROKER_PASSWORD_FILE": "secret"},
            "BILLING_BROKER_URL has a password, and BILLING_BROKER_PASSWORD_FILE is set",
        ),
        (
            {"BILLING_BROKER_URL": "amqp://h", "BILLING_BROKER_PASSWORD_FILE": "secret"},
            "BILLING_BROKER_URL names no user for the password of BILLING_BROKER_PASSWORD_FILE",
        ),
        (
            {"BILLING_DATABASE_PASSWORD_FILE": "secret"},
            "BILLING_DATABASE_PASSWORD_FILE needs BILLING_DATABASE_URL",
        ),
    ],
)
def test_two_places_of_one_secret_are_refused(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], problem: str
) -> None:
    file_with(SECRET)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError, match=problem) as refused:
        load_settings()
    assert SECRET not in str(refused.value)


def test_flag_precedes_the_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BILLING_BROKER_URL_FILE", "none")
    monkeypatch.setenv("BILLING_BROKER_PASSWORD_FILE", "none")
    assert load_settings(broker_url="amqp://h").broker_url.get_secret_value() == "amqp://h"


def test_other_process_gets_the_secret_and_not_its_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BILLING_BROKER_URL_FILE", file_with("amqp://app:s3cret@broker/"))
    for name, value in environment_of(load_settings()).items():
        monkeypatch.setenv(name, value)
    assert load_settings().broker_url.get_secret_value() == "amqp://app:s3cret@broker/"


def test_variables_of_the_page_log_in_with_the_passwords_of_files(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (block,) = re.findall(
        r"```sh\n(.*?)```", section(page("worker/OPERATING.md"), "Secrets from files"), re.DOTALL
    )
    for name in ("worker", "billing_worker"):
        (tmp_path / name).write_text(f"of {name}\n")
    for word in shlex.split(block.replace("/run/secrets", str(tmp_path))):
        if word != "export":
            monkeypatch.setenv(*word.split("=", 1))
    settings = load_settings()
    assert settings.broker_url.get_secret_value() == "amqp://worker:of%20worker@rabbitmq:5672/"
    expected = "postgresql://billing_worker:of%20billing_worker@postgres:5432/billing"
    assert settings.database_url.get_secret_value() == expected
