"""``topology definitions``: users and roles, passwords as hashes, and what is refused."""

import base64
import hashlib
import json
import re
import shlex
from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, get_args

import pytest

from schemas import Message, Query
from tests.cli.console import Cli
from tests.support.pages import page, section
from worker.broker import BILLING
from worker.broker.definitions import definitions, password_hash
from worker.broker.roles import FURTHER_ROLES, ROLES, USERS, sendable_keys
from worker.broker.topology import Queue, Topology
from worker.cli.passwords import PASSWORD_MIN
from worker.settings import load_settings

PASSWORD = "correct horse battery"
NAMES = [user.name for user in USERS]


@pytest.fixture
def secrets(bare_cli: Cli) -> Path:
    """Folder with the password of each user; the command line is beside it."""
    folder = Path("secrets")
    folder.mkdir()
    for name in NAMES:
        (folder / name).write_text(f"{PASSWORD} of {name}\n")
    return folder


def by_name(made: Mapping[str, Any], part: str, name: str = "name") -> dict[str, Any]:
    return {entry[name]: entry for entry in made[part]}


def is_hash_of(hashed: str, password: str) -> bool:
    raw = base64.b64decode(hashed)
    return hashlib.sha256(raw[:4] + password.encode()).digest() == raw[4:]


# -- passwords --------------------------------------------------------------------------------------------


def test_hash_is_the_one_that_rabbitmq_documents() -> None:
    salt = bytes.fromhex("908DC60A")
    expected = "kI3GCqW5JLMJa4iX1lo7X4D6XbYqlLgxIs30+P6tENUV2POR"
    assert password_hash("test12", salt) == expected


def test_passwords_of_a_folder_become_hashes(bare_cli: Cli, secrets: Path) -> None:
    done = bare_cli("topology", "definitions", "--passwords", "secrets")
    assert (done.code, done.err) == (0, "")
    assert PASSWORD not in done.out
    users = by_name(done.json, "users")
    assert list(users) == NAMES
    assert all(is_hash_of(users[name]["password_hash"], f"{PASSWORD} of {name}") for name in NAMES)
    again = by_name(bare_cli("topology", "definitions", "--passwords", "secrets").json, "users")
    assert all(users[name]["password_hash"] != again[name]["password_hash"] for name in NAMES), "one salt"


def test_passwords_are_asked_for(bare_cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def answer(prompt: str) -> str:
        asked.append(prompt)
        return PASSWORD

    monkeypatch.setattr("click.termui.hidden_prompt_func", answer)
    done = bare_cli("topology", "definitions", "--prompt", "--user", "app=shop")
    assert done.code == 0, done
    assert len(asked) == 2
    assert is_hash_of(by_name(done.json, "users")["shop"]["password_hash"], PASSWORD)


def test_users_without_passwords_are_printed_with_none_and_the_way_on(bare_cli: Cli) -> None:
    done = bare_cli("topology", "definitions")
    assert {user["password_hash"] for user in done.json["users"]} == {""}
    assert "rabbitmqctl change_password NAME" in done.err


def test_rights_alone_name_no_user_to_make(bare_cli: Cli) -> None:
    made = bare_cli("topology", "definitions", "--rights-only").json
    assert "users" not in made
    assert [permission["user"] for permission in made["permissions"]] == NAMES


def test_definitions_are_written_to_a_file_as_a_whole(bare_cli: Cli, secrets: Path) -> None:
    done = bare_cli("topology", "definitions", "--passwords", "secrets", "--output", "definitions.json")
    assert (done.code, done.all) == (0, "")
    assert list(by_name(json.loads(Path("definitions.json").read_text()), "users")) == NAMES
    assert sorted(path.name for path in Path().iterdir()) == ["definitions.json", "secrets"]
    refused = bare_cli("topology", "definitions", "--output", "none/definitions.json", "--rights-only")
    assert refused.code == 2
    assert refused.error == "none/definitions.json can't be written: No such file or directory"


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--passwords", "none"], "password of app: there is no file none/app"),
        (["--passwords", "secrets", "--user", "producer"], "password of producer: there is no file"),
        (["--passwords", "secrets", "--prompt"], "exclude each other"),
        (["--passwords", "secrets", "--rights-only"], "exclude each other"),
        (["--user", "boss"], "'boss' is no role: one of app, gateway"),
        (["--user", "app=a|b"], "'a|b' is no name for a broker user"),
        (["--user", "app", "--user", "ops=app"], "the user app is named twice"),
        (["--user", "app", "--user", "producer=app.eu"], "app could read the queues of app.eu"),
    ],
)
def test_wrong_use_is_refused(bare_cli: Cli, secrets: Path, arguments: list[str], problem: str) -> None:
    refused = bare_cli("topology", "definitions", *arguments)
    assert (refused.code, refused.out) == (2, "")
    assert problem in refused.err


def test_password_that_is_short_or_empty_is_refused(bare_cli: Cli, secrets: Path) -> None:
    (secrets / "ops").write_text("x" * (PASSWORD_MIN - 1))
    short = bare_cli("topology", "definitions", "--passwords", "secrets")
    assert (short.code, short.out) == (2, "")
    assert "password of ops: it is too short, at least 16 characters" in short.error
    (secrets / "ops").write_text("\n")
    empty = bare_cli("topology", "definitions", "--passwords", "secrets")
    assert empty.error == "password of ops: the file secrets/ops is empty"


# -- users and rights -------------------------------------------------------------------------------------


def test_users_have_the_names_and_the_vhost_that_are_said(bare_cli: Cli) -> None:
    chosen = ("--user", "worker", "--user", "app=shop", "--user", "producer=ocr", "--vhost", "billing")
    made = bare_cli("topology", "definitions", *chosen).json
    assert list(by_name(made, "users")) == ["worker", "shop", "ocr"]
    parts = ("permissions", "topic_permissions", "policies", "exchanges", "queues", "bindings")
    assert {entry["vhost"] for part in parts for entry in made[part]} == {"billing"}
    assert by_name(made, "permissions", "user")["shop"]["configure"] == r"^(billing\.replies\.shop(\..*)?)$"


def test_every_user_has_a_topic_permission_on_every_command_exchange(bare_cli: Cli) -> None:
    made = bare_cli("topology", "definitions", "--rights-only").json
    found = {(entry["user"], entry["exchange"]) for entry in made["topic_permissions"]}
    assert found == {(name, exchange) for name in NAMES for exchange in BILLING.command_exchanges}


def test_tags_of_roles_change_nothing() -> None:
    tags = {role.name: role.tags for role in (*ROLES, *FURTHER_ROLES) if role.tags}
    assert tags == {"ops": ("management",), "monitor": ("monitoring",)}


#: Types that are sent, by the role that sends them beside ops, who may send all. None: ops alone.
SENT = {
    "app": "account.open query.afford query.balance query.catalog query.history query.operation query.usage",
    "gateway": "account.freeze payment.dispute_closed payment.disputed payment.failed payment.named "
    "payment.refund_failed "
    "payment.refunded payment.succeeded subscription.cancel subscription.change subscription.renew",
    "worker": "account.settle",
    None: "account.import account.unfreeze credit.adjust credit.bonus credit.refund query.stats",
    "producer": "usage.batch usage.deduct usage.extend usage.free_upload usage.record usage.release "
    "usage.reserve usage.settle",
}


def types_of(union: Any) -> set[str]:
    """Return every type of the models of a union."""
    if hasattr(union, "model_fields"):
        return set(get_args(union.model_fields["type"].annotation))
    return {type_ for part in get_args(union) for type_ in types_of(part)}


def test_each_type_may_be_sent_by_these_roles() -> None:
    expected = {type_: {role, "ops"} - {None} for role, types in SENT.items() for type_ in types.split()}
    for type_ in SENT["producer"].split():
        expected[type_].add("app")
    assert types_of(Message) | types_of(Query) == expected.keys(), "a new type asks who may send it"
    for type_, roles in expected.items():
        for key in (type_, f"{type_}.07"):
            found = {
                role.name
                for role in (*ROLES, *FURTHER_ROLES)
                if re.search(sendable_keys(role, BILLING, BILLING.exchange), key)
            }
            assert found == roles, key


def test_variables_fit_the_topic_permissions(bare_cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = bare_cli("topology", "definitions", "--settings", "--user", "app=shop", "--user", "worker").lines
    variables = dict(shlex.split(line.removeprefix("export "))[0].split("=", 1) for line in lines)
    assert variables["BILLING_WORKER_USERS"] == "worker"
    senders = load_settings(senders=variables["BILLING_SENDERS"]).senders
    assert senders["account.open"] == ("shop",)
    assert senders["usage.*"] == ("shop",)
    assert not any(fnmatchcase("credit.bonus", pattern) for pattern in senders)


def test_queue_that_is_added_falls_to_the_role_that_reads_it() -> None:
    topology = Topology(
        "billing",
        BILLING.work,
        replies=BILLING.replies,
        dead=Queue("billing.dead", readers=("worker", "ops", "monitor")),
        queries=BILLING.queries,
    )
    made = definitions(topology, USERS, vhost="/", hashes=None)
    assert by_name(made, "permissions", "user")["monitor"]["read"] == r"^(billing\.dead)$"


def test_every_queue_is_read_by_a_role() -> None:
    known = {role.name for role in (*ROLES, *FURTHER_ROLES)}
    for queue in BILLING.queues:
        assert queue.readers, queue
        assert set(queue.readers) <= known


def test_commands_of_the_page_make_definitions(bare_cli: Cli) -> None:
    (block,) = re.findall(
        r"```sh\n(.*?)```",
        section(page("worker/OPERATING.md"), "Users and rights on the broker"),
        re.DOTALL,
    )
    loop = next(line for line in block.splitlines() if line.startswith("for user in "))
    assert re.findall(r"for user in (.*);", loop.split(" do ")[0] + " ")[0].split() == NAMES
    Path("secrets").mkdir()
    for name in NAMES:
        (Path("secrets") / name).write_text("0123456789abcdef" * 3)
    ours = [shlex.split(line)[1:] for line in block.splitlines() if line.startswith("billing-worker")]
    assert [bare_cli(*words).code for words in ours] == [0, 0]
    assert list(by_name(json.loads(Path("definitions.json").read_text()), "users")) == NAMES
