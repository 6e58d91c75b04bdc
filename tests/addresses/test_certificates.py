"""Certificates of the settings: URLs with TLS name them, other URLs stay."""

import pytest

from worker.addresses import Certificates, with_certificates

ALL = Certificates("/x/ca.pem", "/x/me.pem", "/x/me.key")


@pytest.mark.parametrize(
    ("url", "files", "whole"),
    [
        ("amqp://u:p@a", ALL, "amqp://u:p@a"),
        (
            "amqps://u:p@a",
            ALL,
            "amqps://u:p@a?cacertfile=/x/ca.pem&certfile=/x/me.pem&keyfile=/x/me.key",
        ),
        (
            "amqps://u:p@a,amqps://u:p@b?heartbeat=9",
            Certificates("/ca"),
            "amqps://u:p@a,amqps://u:p@b?heartbeat=9&cacertfile=/ca",
        ),
        (
            "amqps://u:p@a?heartbeat=9,amqps://u:p@b",
            Certificates("/c a"),
            "amqps://u:p@a?heartbeat=9,amqps://u:p@b?cacertfile=/c%20a",
        ),
        ("amqps://u:p@a?cacertfile=/own", Certificates("/ca"), "amqps://u:p@a?cacertfile=/own"),
        ("amqps://u:p@a", Certificates(), "amqps://u:p@a"),
        (
            "postgresql://u@a/db",
            Certificates("/ca"),
            "postgresql://u@a/db?sslmode=verify-full&sslrootcert=/ca",
        ),
        ("postgresql://u@a/db", Certificates(None, "/me.pem", "/me.key"), "postgresql://u@a/db"),
        ("postgresql://u@a/db?sslmode=disable", ALL, "postgresql://u@a/db?sslmode=disable"),
        (
            "postgresql://u@a,b/db?sslmode=verify-ca",
            ALL,
            "postgresql://u@a,b/db?sslmode=verify-ca&sslrootcert=/x/ca.pem&sslcert=/x/me.pem&sslkey=/x/me.key",
        ),
        (
            "postgresql://u@a/db?sslmode=verify-full&sslrootcert=system",
            Certificates("/ca"),
            "postgresql://u@a/db?sslmode=verify-full&sslrootcert=system",
        ),
        ("sqlite:///x.db", ALL, "sqlite:///x.db"),
        ("sqla+sqlite:///x.db", ALL, "sqla+sqlite:///x.db"),
    ],
)
def test_files_are_named_where_tls_is_spoken_and_the_url_names_none(
    url: str, files: Certificates, whole: str
) -> None:
    assert with_certificates(url, files) == whole
