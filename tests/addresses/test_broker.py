"""Addresses of the broker: the usual forms of one node and of several, and what is refused."""

import pytest

from worker.addresses import BrokerAddress, Server, management_addresses, require_management, shown

A, B = Server("a", 5672), Server("b", 5672)
SECRET = "s3cr3t"


@pytest.mark.parametrize(
    ("url", "nodes"),
    [
        ("amqp://u:p@a", (A,)),
        ("pyamqp://u:p@a/v", (A,)),
        ("amqps://u:p@a", (Server("a", 5671),)),
        ("amqp://u:p@a:7/", (Server("a", 7),)),
        ("amqp://u:p@a:/", (A,)),
        ("amqp:///", (Server("localhost", 5672),)),
        ("amqp://u:p@[::1]:7/", (Server("::1", 7),)),
        ("amqp://u:p@[fe80::1]", (Server("fe80::1", 5672),)),
        ("amqp://u:p@a,amqp://u:p@b", (A, B)),
        ("amqp://u:p@a, amqp://u:p@b", (A, B)),
        ("amqp://u:p@a;amqp://u:p@b", (A, B)),
        ("amqp://u:p@a/v?heartbeat=9;amqp://u:p@b/v", (A, B)),
        ("amqp://u:p@a,b", (A, B)),
        ("amqp://u:p@a;b", (A, B)),
        ("amqp://u:p@a:1,b:2/v", (Server("a", 1), Server("b", 2))),
        ("amqp://u:p@a,u:p@b/v", (A, B)),
        ("amqp://a,b", (A, B)),
        ("amqp://u:p@b,a", (B, A)),
        ("amqp://u:p@a,a:5672,amqp://u:p@b,amqp://u:p@a", (A, B)),
        ("amqps://u:p@[::1],[::2]:7", (Server("::1", 5671), Server("::2", 7))),
    ],
)
def test_url_names_nodes_in_order_and_each_once(url: str, nodes: tuple[Server, ...]) -> None:
    assert BrokerAddress.parse(url).nodes == nodes


@pytest.mark.parametrize(
    ("url", "login"),
    [
        ("amqp://u:p@a,b/v", ("u", "p", "v")),
        ("amqp://u:p%2Cw@a,amqp://u:p%2Cw@b", ("u", "p,w", "/")),
        ("amqp://u:p,w@a,b", ("u", "p,w", "/")),  # an address has one @: what is before it is the login
        ("amqp://u:p;w@a", ("u", "p;w", "/")),
        ("amqp://a%40b:p%2F%3F@h/%2F", ("a@b", "p/?", "/")),
        ("amqp://a/x%2Cy", ("guest", "guest", "x,y")),
        ("amqp://:p@a//", ("guest", "p", "/")),
    ],
)
def test_url_names_one_login_and_virtual_host(url: str, login: tuple[str, str, str]) -> None:
    address = BrokerAddress.parse(url)
    assert (address.user, address.password, address.vhost) == login
    assert SECRET not in repr(BrokerAddress.parse(f"amqp://u:{SECRET}@a"))


@pytest.mark.parametrize(
    ("url", "error"),
    [
        (f"amqp://u:{SECRET}@a,,b", "empty address"),
        (f"amqp://u:{SECRET}@a,", "empty address"),
        (f"amqp://u:{SECRET}@a,,amqp://u:{SECRET}@b", "empty address"),
        (f",amqp://u:{SECRET}@a", "no URL"),
        (f"amqp://u:{SECRET}@a,amqp://", "differ"),
        (f"amqp://u:{SECRET}@a,amqp://v:{SECRET}@b", "differ"),
        (f"amqp://u:{SECRET}@a,amqp://u:{SECRET}@b/v", "differ"),
        (f"amqp://u:{SECRET}@a,amqps://u:{SECRET}@b", "differ"),
        (f"amqp://u:{SECRET}@a,v:{SECRET}@b", "no URL"),
        (f"amqp://u:{SECRET}@{SECRET}@a", "no URL"),
        (f"amqp://u:1,{SECRET}@2@a", "no URL"),
        (f"amqp://u:{SECRET}", "no URL"),
        (f"amqp://u:{SECRET}@a:70000", "no URL"),
        (f"amqp://u:{SECRET}@a:0", "no URL"),
        (f"amqp://u:{SECRET}@[::1", "no URL"),
        (f"amqp://u:{SECRET}@a b", "no URL"),
        (f"amqp://u:{SECRET}#@a", "no URL"),
        (f"redis://u:{SECRET}@a", "another scheme"),
    ],
)
def test_address_that_can_mean_two_things_is_refused_without_its_login(url: str, error: str) -> None:
    with pytest.raises(ValueError, match=error) as caught:
        BrokerAddress.parse(url)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    ("query", "error"),
    [
        ("cacertfil=x", "unknown option 'cacertfil': did you mean cacertfile"),
        ("ssl=0", "unknown option 'ssl': TLS is amqps://"),
        ("ssl_cert_reqs=CERT_NONE", "say verify=verify_peer"),
        ("ssl_ca_certs=x", "say cacertfile"),
        ("sslmode=require", "TLS is amqps://"),
        ("nonsense=1", "the options are auth_mechanism, cacertfile"),
        ("verify=verify_none", "would trust any server"),
        ("verify=0", "would trust any server"),
        ("server_name_indication=disable", "certificate's name"),
        ("keyfile=k", "without certfile"),
        ("cacertfile=", "cacertfile no value"),
        ("cacertfile=a&cacertfile=b", "cacertfile two values"),
        ("auth_mechanism=gssapi", "neither plain nor external"),
        ("heartbeat=abc", "number of seconds"),
        ("heartbeat=0", "number of seconds"),
        ("connection_timeout=9e9", "number of milliseconds"),
    ],
)
def test_option_that_sets_up_the_connection_wrongly_is_refused(query: str, error: str) -> None:
    with pytest.raises(ValueError, match=error):
        BrokerAddress.parse(f"amqps://u:p@a,b?{query}")


@pytest.mark.parametrize("query", ["cacertfile=x", "verify=verify_peer", "auth_mechanism=external"])
def test_option_of_tls_without_tls_is_refused(query: str) -> None:
    with pytest.raises(ValueError, match="amqps://"):
        BrokerAddress.parse(f"amqp://u:p@a?{query}")


def test_options_may_stand_behind_each_address() -> None:
    one = BrokerAddress.parse(
        "amqps://u:p@a?cacertfile=/x/ca.pem,amqps://u:p@b?cacertfile=/x/ca.pem&heartbeat=9"
    )
    assert one.files.ca == "/x/ca.pem"
    assert one.heartbeat_s == 9
    with pytest.raises(ValueError, match="two values"):
        BrokerAddress.parse("amqps://u:p@a?cacertfile=x,amqps://u:p@b?cacertfile=y")


def test_name_in_the_certificate_is_the_host_as_it_is_written() -> None:
    local = BrokerAddress.parse("amqps://localhost")
    assert local.name_of(local.nodes[0]) == "localhost"
    named = BrokerAddress.parse("amqps://10.0.0.7?server_name_indication=broker.example")
    assert named.name_of(named.nodes[0]) == "broker.example"


def test_url_of_one_node_has_the_same_login_and_options() -> None:
    url = "amqps://u%40x:p%2Cw@a,[::1]/v%2Fw?cacertfile=/x/ca.pem"
    address = BrokerAddress.parse(url)
    for node in address.nodes:
        one = BrokerAddress.parse(address.url_of(node))
        assert one.nodes == (node,)
        assert (one.user, one.password, one.vhost) == ("u@x", "p,w", "v/w")
        assert one.options == address.options


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("amqp://u:secret@a,amqp://u:secret@b", "amqp://u:***@a,b"),
        ("amqp://u:secret@a:1/v;amqp://u:secret@b/v?heartbeat=7", "amqp://u:***@a:1,b/v"),
        ("amqp://u:secret@a,u:secret@b/v", "amqp://u:***@a,b/v"),
        ("amqp://u:sec,ret@a,b", "amqp://u:***@a,b"),
        ("amqp://u:secret@a,amqp://v:secret@b", "amqp://u:***@a,amqp://v:***@b"),
        ("amqp://u:secret@a,,amqp://u:secret@b", "amqp://u:***@a,,b"),
        ("amqp://u:secret@a,v:secret@b", "amqp://***"),
        ("amqp://u:sec@ret@a,b", "amqp://***"),
        ("amqps://u:secret@[::1],b?keyfile=/secret", "amqps://u:***@[::1],b"),
    ],
)
def test_shown_list_has_no_password(url: str, text: str) -> None:
    assert shown(url) == text


# -- the management API -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("broker", "url", "places"),
    [
        ("amqp://u:p@a:1,b:2", None, ["http a:15672 u", "http b:15672 u"]),
        ("amqps://u:p@a,a:7", None, ["https a:15671 u"]),
        ("amqp://u:p@a", "http://m,n:7", ["http m:15672 u", "http n:7 u"]),
        ("amqp://u:p@a", "https://mon:q@m,https://mon:q@n", ["https m:15671 mon", "https n:15671 mon"]),
        ("amqp://u:p@a", "http://[::1]:7/mq/", ["http [::1]:7/mq u"]),
    ],
)
def test_management_api_is_on_each_node_or_where_its_url_says(
    broker: str, url: str | None, places: list[str]
) -> None:
    found = management_addresses(BrokerAddress.parse(broker), url)
    assert [
        f"{'https' if one.is_secure else 'http'} {one.server}{one.path} {one.user}" for one in found
    ] == places


@pytest.mark.parametrize(
    "url", ["m:15672", "ftp://m", "http://m?verify=0", f"http://u:{SECRET}@{SECRET}@m", "http://m,"]
)
def test_other_address_of_the_management_api_is_refused(url: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - two texts
        require_management(url)
    assert SECRET not in str(caught.value)
