"""A private CA, made on the spot, and servers that take no client without a certificate of it."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Self

import trustme

from tests.support.postgres_server import WITHOUT_FLUSH, Postgres
from tests.support.private_server import ServerOwner, free_port, memory_folder
from tests.support.rabbitmq_server import RabbitMQ
from worker.addresses import Certificates

#: The name in the servers' certificates; no address is.
HOST = "localhost"


class Authority:
    """A CA with its files in a folder of its own, which servers of other users may read."""

    def __init__(self, folder: Path) -> None:
        self.folder, self._ca = folder, trustme.CA()
        folder.chmod(0o755)
        self.file = folder / "ca.pem"
        self._write(self._ca.cert_pem, self.file)

    @classmethod
    @contextmanager
    def made(cls) -> Iterator[Self]:
        """Make a CA; its files are gone at the end of the block."""
        with TemporaryDirectory(prefix="billing-certificates-", dir=memory_folder()) as folder:
            yield cls(Path(folder))

    def issue(self, name: str, common_name: str | None = None) -> Certificates:
        """Issue a certificate for ``name``; a client's has its user as the common name."""
        issued = self._ca.issue_cert(name, common_name=common_name)
        certificate, key = (self.folder / f"{common_name or name}.{end}" for end in ("pem", "key"))
        self._write(issued.cert_chain_pems[0], certificate)
        self._write(issued.private_key_pem, key, 0o600)  # libpq and PostgreSQL take no other
        return Certificates(str(self.file), str(certificate), str(key))

    @staticmethod
    def _write(blob: trustme.Blob, path: Path, mode: int = 0o644) -> None:
        blob.write_to_path(path)
        path.chmod(mode)


@dataclass(frozen=True)
class SecureRabbitMQ:
    """A broker with TLS beside its open listeners; a certificate is a login as well."""

    server: RabbitMQ
    port: int
    management_port: int

    def url(self, login: str, host: str = HOST) -> str:
        """Return the URL with TLS; ``login`` is a user, or a user and password."""
        return f"amqps://{login}@{host}:{self.port}/"


@contextmanager
def secure_rabbitmq(authority: Authority) -> Iterator[SecureRabbitMQ]:
    """Start a broker that takes no client but one of the CA."""
    files = authority.issue(HOST, "broker")
    port, management_port = free_port(), free_port()
    own = {"cacertfile": files.ca, "certfile": files.certificate, "keyfile": files.key}
    own |= {"verify": "verify_peer", "fail_if_no_peer_cert": "true"}
    places = ("ssl_options", "management.ssl")
    settings = [
        f"listeners.ssl.1 = 127.0.0.1:{port}",
        "management.ssl.ip = 127.0.0.1",
        f"management.ssl.port = {management_port}",
        *(f"{place}.{name} = {value}" for place in places for name, value in own.items()),
        "auth_mechanisms.1 = PLAIN",
        "auth_mechanisms.2 = EXTERNAL",
        "ssl_cert_login_from = common_name",
    ]
    plugins = ["rabbitmq_auth_mechanism_ssl"]
    with RabbitMQ.start(memory_folder(), settings=settings, plugins=plugins) as server:
        yield SecureRabbitMQ(server, port, management_port)


@contextmanager
def secure_postgres(authority: Authority, role: str) -> Iterator[Postgres]:
    """Start a PostgreSQL whose ``role`` gets in by TLS with a certificate of its own name alone."""
    files = authority.issue(HOST, "database")
    rights = authority.folder / "pg_hba.conf"
    own = f"hostssl all {role} all md5 clientcert=verify-full\nhost all {role} all reject\n"
    rights.write_text(f"{own}host all all all md5\n")
    rights.chmod(0o644)
    assert files.key is not None
    ServerOwner.unprivileged().own(Path(files.key))
    settings = {
        "ssl": "on",
        "ssl_ca_file": str(files.ca),
        "ssl_cert_file": str(files.certificate),
        "ssl_key_file": files.key,
        "hba_file": str(rights),
    }
    with Postgres.start(memory_folder(), {**WITHOUT_FLUSH, **settings}) as server:
        yield server
