"""Addresses of the database: the usual forms of one server and of several, and what is refused."""

import pytest

from worker.addresses import DatabaseAddress, of_primary, shown
from worker.ledger.engine import ledger_engine

SECRET = "s3cr3t"


def arguments(url: str) -> dict[str, str]:
    """Return what the driver is called with."""
    engine = ledger_engine(url)
    _, found = engine.dialect.create_connect_args(engine.url)
    return {name: str(value) for name, value in found.items()}


@pytest.mark.parametrize(
    ("url", "host", "port"),
    [
        ("postgresql://u@a/db", "a", "5432"),
        ("postgres://u@a/db", "a", "5432"),
        ("postgresql+psycopg2://u@a:7/db", "a", "7"),
        ("postgresql://u@[::1]:7/db", "::1", "7"),
        ("postgresql://u@a:5432,b:5432/db?target_session_attrs=read-write", "a,b", "5432,5432"),
        ("postgresql://u@a,b:7/db", "a,b", "5432,7"),
        ("postgresql://u@a,a:5432,b/db", "a,b", "5432,5432"),
        ("postgresql://u@[::1],[::2]:7/db", "::1,::2", "5432,7"),
        ("postgresql://u@/db?host=a:1&host=b", "a,b", "1,5432"),
        ("postgresql://u@/db?host=a,b&port=1,2", "a,b", "1,2"),
        ("postgresql://u@/db?host=a,b&port=7", "a,b", "7,7"),
        ("postgresql://u@/db?host=[::1]:7&host=::2", "::1,::2", "7,5432"),
        ("postgresql://u@/db?host=/run/postgresql", "/run/postgresql", "5432"),
        ("postgresql://u@/db?host=/run/postgresql&port=7", "/run/postgresql", "7"),
        ("postgresql://u@%2Frun%2Fpostgresql/db", "/run/postgresql", "5432"),
    ],
)
def test_driver_gets_each_server_once_and_in_order(url: str, host: str, port: str) -> None:
    found = arguments(url)
    assert (found["host"], found["port"]) == (host, port)
    assert (found["user"], found["dbname"]) == ("u", "db")


def test_url_without_a_server_leaves_it_to_the_driver() -> None:
    assert not {"host", "port"} & set(arguments("postgresql://u@/db"))


def test_login_and_options_reach_the_driver_as_they_are() -> None:
    found = arguments("postgresql://a%40b:p%2Cw,x@a,b/d%20b?sslrootcert=/x%20y/ca.pem&options=-c%20a%3Db")
    assert found["user"] == "a@b"
    assert found["password"] == "p,w,x"
    assert found["dbname"] == "d b"
    assert found["sslrootcert"] == "/x y/ca.pem"
    assert found["options"] == "-c a=b"


@pytest.mark.parametrize(
    ("url", "error"),
    [
        (f"postgresql://u:{SECRET}@a,,b/db", "empty address"),
        (f"postgresql://u:{SECRET}@a,/db", "empty address"),
        (f"postgresql://u:{SECRET}@/db?host=a,,b", "empty host"),
        (f"postgresql://u:{SECRET}@/db?host=a,b&port=1,2,3", "number of ports"),
        (f"postgresql://u:{SECRET}@/db?host=a&port=x", "number of ports"),
        (f"postgresql://u:{SECRET}@/db?host=a&port=99999", "none of 1 to 65535"),
        (f"postgresql://u:{SECRET}@a,b/db?host=c", "servers twice"),
        (f"postgresql://u:{SECRET}@a/db?port=1", "servers twice"),
        ("postgresql://u@a/db,postgresql://u@b/db", "no URL"),
        ("postgresql://a/db,postgresql://b/db", "list of URLs"),
        (f"postgresql://u:{SECRET}@{SECRET}@a/db", "no URL"),
        (f"postgresql://u:{SECRET}@a:99999/db", "no URL"),
        (f"postgresql://u:{SECRET}#@a/db", "no URL"),
    ],
)
def test_address_of_another_form_is_refused_without_its_login(url: str, error: str) -> None:
    with pytest.raises(ValueError, match=error) as caught:
        DatabaseAddress.parse(url)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    ("query", "error"),
    [
        ("sslmod=verify-full", "unknown option 'sslmod': did you mean sslmode"),
        ("ssl=0", "unknown option 'ssl': say sslmode=verify-full"),
        ("ssl=true", "say sslmode=verify-full"),
        ("cacertfile=x", "say sslrootcert"),
        ("nonsense=1", "unknown option 'nonsense': leave it out"),
        ("sslmode=no-verify", "sslmode that is none of disable, allow"),
        ("sslmode=verify_full", "sslmode that is none of"),
        ("sslmode=", "sslmode no value"),
        ("sslmode=require&sslmode=disable", "sslmode two values"),
        ("sslrootcert=x", "sslrootcert and an sslmode that may do without TLS"),
        ("sslmode=prefer&sslcert=x", "sslcert and an sslmode that may do without TLS"),
        ("sslmode=verify-full&sslkey=x", "sslkey without sslcert"),
        ("sslmode=require&sslrootcert=system", "needs sslmode=verify-full"),
        ("target_session_attrs=readwrite", "target_session_attrs that is none of any, read-write"),
    ],
)
def test_option_that_sets_up_the_connection_wrongly_is_refused(query: str, error: str) -> None:
    with pytest.raises(ValueError, match=error):
        DatabaseAddress.parse(f"postgresql://u@a,b/db?{query}").require_options()


@pytest.mark.parametrize(
    "query",
    [
        "",
        "?sslmode=require",
        "?sslmode=verify-full&sslrootcert=/x&sslcert=/y&sslkey=/z",
        "?sslmode=verify-full&sslrootcert=system",
        "?connect_timeout=3&application_name=x&options=-csearch_path%3Dbilling",
    ],
)
def test_usual_options_are_taken(query: str) -> None:
    DatabaseAddress.parse(f"postgresql://u@a/db{query}").require_options()


@pytest.mark.parametrize(
    ("url", "warning"),
    [
        ("postgresql://u@localhost/db", None),
        ("postgresql://u@127.0.0.1,[::1]/db", None),
        ("postgresql://u@/db?host=/run", None),
        ("postgresql://u@/db", None),
        ("postgresql://u@a/db?sslmode=verify-full&sslrootcert=x", None),
        ("postgresql://u@a/db", "clear text"),
        ("postgresql://u@localhost,a/db?sslmode=disable", "clear text"),
        ("postgresql://u@a/db?sslmode=require", "any server is trusted"),
        ("postgresql://u@a/db?sslmode=require&sslrootcert=x", "certificate of the CA is trusted"),
        ("postgresql://u@a/db?sslmode=verify-ca&sslrootcert=x", "certificate of the CA is trusted"),
    ],
)
def test_way_on_which_others_may_listen_or_answer_is_warned_of(url: str, warning: str | None) -> None:
    found = DatabaseAddress.parse(url).warning()
    assert (found is None) if warning is None else (warning in str(found))


def test_several_servers_lead_to_the_primary_unless_the_url_says_otherwise() -> None:
    assert of_primary("postgresql://u@a/db") == "postgresql://u@a/db"
    assert of_primary("postgresql://u@a,b/db") == "postgresql://u@a,b/db?target_session_attrs=primary"
    for url in ("postgresql://u@a,b/db?target_session_attrs=any", "sqlite:///a,b.db"):
        assert of_primary(url) == url


def test_url_of_one_server_is_for_any_part_of_it() -> None:
    address = DatabaseAddress.parse(
        "postgresql://u:p@a,[::1]:7/db?target_session_attrs=primary&sslmode=require"
    )
    assert [address.url_of(server) for server in address.servers] == [
        "postgresql://u:p@a:5432/db?sslmode=require",
        "postgresql://u:p@[::1]:7/db?sslmode=require",
    ]


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("postgresql://u:secret@a:1,b/db?sslkey=/secret", "postgresql://u:***@a:1,b/db"),
        ("postgresql://u:sec,ret@a,b/db", "postgresql://u:***@a,b/db"),
        ("postgresql://u:sec@ret@a,b/db", "postgresql://***"),
        ("postgres://u:secret@a/db", "postgres://u:***@a/db"),
    ],
)
def test_shown_list_has_no_password(url: str, text: str) -> None:
    assert shown(url) == text
