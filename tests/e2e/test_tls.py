"""TLS to both servers, with a private CA and client certificates on both sides."""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

import pytest
from sqlalchemy import create_engine

from schemas import OpenAccount
from tests.cli.console import Cli
from tests.support.certificates import HOST, Authority, SecureRabbitMQ, secure_postgres, secure_rabbitmq
from tests.support.pages import page, section
from tests.support.postgres_server import Postgres
from tests.support.tcp_proxy import Proxy
from tests.support.worker_thread import running
from worker.addresses import Certificates, with_certificates
from worker.bootstrap import Application
from worker.broker import BILLING, open_link
from worker.broker.management import Management
from worker.broker.rabbitmq.link import AmqpLink
from worker.client import BillingClient
from worker.errors import BillingError, BrokerUnavailableError, ConfigurationError, LedgerUnavailableError
from worker.ledger.engine import ledger_engine
from worker.ledger.migrations import migrate
from worker.ledger.store import Ledger
from worker.settings import load_settings

ROLE, PASSWORD, DATABASE = "tls", "s3cr3t-Pa55", "billing"


@dataclass(frozen=True)
class Secured:
    """Servers that want certificates, and those of a client that they take."""

    client: Certificates
    rabbitmq: SecureRabbitMQ
    postgres: Postgres

    @property
    def broker_url(self) -> str:
        return self.rabbitmq.url(f"{ROLE}:{PASSWORD}")

    @property
    def database_url(self) -> str:
        return f"postgresql://{ROLE}:{PASSWORD}@{HOST}:{self.postgres.address.port}/{DATABASE}"

    @property
    def variables(self) -> dict[str, str]:
        """Variables of a worker, as the manual has them."""
        return {
            "BILLING_BROKER_URL": self.broker_url,
            "BILLING_DATABASE_URL": self.database_url,
            "BILLING_TLS_CA": str(self.client.ca),
            "BILLING_TLS_CERT": str(self.client.certificate),
            "BILLING_TLS_KEY": str(self.client.key),
        }


@pytest.fixture(scope="module")
def secured() -> Iterator[Secured]:
    with (
        Authority.made() as authority,
        secure_rabbitmq(authority) as rabbitmq,
        secure_postgres(authority, ROLE) as postgres,
    ):
        everything = {"configure": ".*", "write": ".*", "read": ".*"}
        rabbitmq.server.management.create_user(ROLE, PASSWORD, "/", **everything)
        link = open_link(rabbitmq.server.address.url())
        link.declare(BILLING)
        link.close()
        postgres.databases.create_database(DATABASE)
        engine = create_engine(postgres.address.url(DATABASE))
        with engine.begin() as connection:
            connection.exec_driver_sql(f"CREATE ROLE {ROLE} LOGIN SUPERUSER PASSWORD '{PASSWORD}'")
        engine.dispose()
        engine = ledger_engine(postgres.address.url(DATABASE))
        migrate(engine)
        engine.dispose()
        yield Secured(authority.issue("client", ROLE), rabbitmq, postgres)


@pytest.fixture(scope="module")
def stranger() -> Iterator[Certificates]:
    """Certificates of a client of another CA, which trusts that CA."""
    with Authority.made() as authority:
        yield authority.issue("client", ROLE)


def test_worker_settles_over_tls_on_both_sides(secured: Secured, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in secured.variables.items():
        monkeypatch.setenv(name, value)
    application = Application(load_settings(readers=0))
    url = with_certificates(secured.broker_url, secured.client)
    with running(application), BillingClient(url) as client:
        reply = client.request(OpenAccount(reference_id="o", user_id="ada", tier="free"))
    with application.batch_engine.connect() as connection:
        row = connection.exec_driver_sql(
            "SELECT ssl, client_dn FROM pg_stat_ssl WHERE pid = pg_backend_pid()"
        ).one()
    application.batch_engine.dispose()
    assert reply.code == "account_opened"
    assert row[0] is True
    assert row[1].endswith(f"CN={ROLE}")


def test_manual_names_the_variables_of_this_worker(secured: Secured) -> None:
    text = section(page("worker/OPERATING.md"), "TLS")
    assert {name for name in secured.variables if f"{name}=" not in text} == set()
    for option in ("server_name_indication=", "auth_mechanism=external", "clientcert=verify-full"):
        assert option in text


def test_time_out_of_a_node_that_is_gone_is_not_that_of_calls(secured: Secured) -> None:
    url = with_certificates(secured.broker_url, secured.client)
    link = open_link(f"{url}&connection_timeout=900")
    assert isinstance(link, AmqpLink)
    assert link._publisher().connection.transport.sock.gettimeout() == 15
    link.close()


def test_node_that_says_nothing_in_the_handshake_is_left_within_seconds(secured: Secured) -> None:
    port = secured.rabbitmq.port
    with Proxy(port) as silent:
        silent.hang()
        hosts = f"{HOST}:{silent.port},{HOST}:{port}"
        url = with_certificates(secured.broker_url.replace(f"{HOST}:{port}", hosts), secured.client)
        began = monotonic()
        open_link(f"{url}&connection_timeout=500").close()
        assert monotonic() - began < 5


def test_certificate_is_the_login_with_external(secured: Secured) -> None:
    url = with_certificates(f"{secured.rabbitmq.url(ROLE)}?auth_mechanism=external", secured.client)
    with closing(open_link(url)) as link:
        assert link.depth("billing.usage") == 0
    with BillingClient(url) as client:
        assert client.send(OpenAccount(reference_id="e", user_id="eve", tier="free"))


def test_check_is_well_over_tls_also_with_the_management_api(
    secured: Secured, monkeypatch: pytest.MonkeyPatch
) -> None:
    admin = secured.rabbitmq.server.address
    management = f"https://{admin.user}:{admin.password}@{HOST}:{secured.rabbitmq.management_port}"
    ended = Cli(monkeypatch, {**secured.variables, "BILLING_MANAGEMENT_URL": management})("check")
    found = {line.split(": ")[0].split(maxsplit=1)[1].split()[0]: line for line in ended.lines}
    assert found["database"].startswith("ok")
    assert found["broker"].startswith("ok")
    assert "delivery limits: high enough" in found["delivery"]
    assert PASSWORD not in ended.all
    assert admin.password not in ended.all


def test_bridge_and_topology_speak_tls_as_well(
    secured: Secured, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    config = tmp_path / "bridge.toml"
    config.write_text('[stripe]\n[stripe.packages]\nprice_1 = "starter"\n', encoding="utf-8")
    secrets = {"BILLING_BRIDGE_STRIPE_SECRETS": "whsec_1"}
    cli = Cli(monkeypatch, {**secured.variables, **secrets})
    ended = cli("bridge", "--config", str(config), "--check")
    assert (ended.code, ended.out) == (0, "ok: stripe, broker\n")
    assert cli("topology", "verify").code == 0


# -- who is not trusted -----------------------------------------------------------------------------------


def test_broker_is_compared_with_the_name_as_it_is_written(secured: Secured) -> None:
    by_number = with_certificates(secured.rabbitmq.url(f"{ROLE}:{PASSWORD}", "127.0.0.1"), secured.client)
    with pytest.raises(BrokerUnavailableError, match=r"127\.0\.0\.1.*as its certificate does"):
        open_link(by_number)
    open_link(f"{by_number}&server_name_indication={HOST}").close()


def test_database_is_compared_with_the_name_as_it_is_written(secured: Secured) -> None:
    by_number = secured.database_url.replace(HOST, "127.0.0.1")
    with pytest.raises(LedgerUnavailableError, match=r"does not match host name|127\.0\.0\.1"):
        probe(with_certificates(by_number, secured.client))


@pytest.mark.parametrize("kept", ["ca", "client"])
def test_other_ca_or_no_certificate_of_the_client_gets_nobody_in(
    secured: Secured, stranger: Certificates, kept: str
) -> None:
    own = secured.client
    files = Certificates(own.ca) if kept == "ca" else Certificates(stranger.ca, own.certificate, own.key)
    for refused in (
        lambda: open_link(with_certificates(secured.broker_url, files)).close(),
        lambda: BillingClient(with_certificates(secured.broker_url, files)).__enter__(),
        lambda: probe(with_certificates(secured.database_url, files)),
        lambda: management(secured, files).delivery_limits("billing.usage"),
    ):
        with pytest.raises(BillingError) as caught:
            refused()
        assert not isinstance(caught.value, ConfigurationError)
        assert PASSWORD not in str(caught.value)


def test_broker_that_is_not_trusted_says_how_it_would_be(secured: Secured, stranger: Certificates) -> None:
    with pytest.raises(BrokerUnavailableError, match="name its CA with cacertfile"):
        open_link(with_certificates(secured.broker_url, stranger))


def test_connection_without_tls_is_refused(secured: Secured) -> None:
    with pytest.raises(BillingError):
        probe(f"{secured.database_url}?sslmode=disable")
    with pytest.raises(BrokerUnavailableError):
        open_link(secured.broker_url.replace("amqps", "amqp"))


def management(secured: Secured, files: Certificates) -> Management:
    url = f"https://{HOST}:{secured.rabbitmq.management_port}"
    return Management(with_certificates(secured.broker_url, files), url)


def probe(url: str) -> None:
    engine = ledger_engine(url)
    try:
        Ledger(engine).probe()
    finally:
        engine.dispose()


# -- files that can't be used -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "kind", "error"),
    [
        ("ca", "missing", "can't be read: No such file"),
        ("ca", "text", "holds no certificate of a CA"),
        ("certificate", "missing", "can't be read: No such file"),
        ("certificate", "text", "don't fit, or aren't PEM files"),
        ("key", "other", "don't fit, or aren't PEM files"),
    ],
)
def test_file_for_the_broker_that_cannot_be_used_is_named(
    secured: Secured, stranger: Certificates, tmp_path: Path, name: str, kind: str, error: str
) -> None:
    path = tmp_path / "file.pem"
    if kind == "text":
        path.write_text("no certificate")
    given = stranger.key if kind == "other" else str(path)
    files = {"ca": secured.client.ca, "certificate": secured.client.certificate, "key": secured.client.key}
    url = with_certificates(secured.broker_url, Certificates(**{**files, name: given}))
    for connect in (lambda: open_link(url), lambda: BillingClient(url)):
        with pytest.raises(ConfigurationError, match=error) as caught:
            connect()
        assert str(files["certificate"] if name == "key" else given) in str(caught.value)


@pytest.mark.parametrize("name", ["sslrootcert", "sslkey"])
def test_file_for_the_database_that_cannot_be_used_ends_the_command(
    secured: Secured, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    path = tmp_path / "file.pem"
    if name == "sslkey":
        path.write_text(Path(str(secured.client.key)).read_text())
        path.chmod(0o644)  # others may read it
    own = "" if name == "sslrootcert" else f"&sslcert={secured.client.certificate}"
    ended = Cli(monkeypatch, secured.variables)(
        "balance", "ada", "--database-url", f"{secured.database_url}?sslmode=verify-full&{name}={path}{own}"
    )
    assert ended.code == 2, ended.err
    assert "certificates can't be used" in ended.err
    assert str(path) in ended.err
