"""Configuration of the bridge: what it says, and errors that name the file and the key."""

import re
from pathlib import Path

import pytest

from tests.gateways.replay import replay_cases
from worker.errors import ConfigurationError
from worker.gateways.configuration import (
    BridgeConfig,
    Secrets,
    endpoints_of,
    load_bridge_config,
    split_secrets,
)
from worker.gateways.resolving import TableResolver

SECRETS = Secrets(stripe=("whsec_1",), paddle=("pdl_1",))


def load(tmp_path: Path, text: str) -> BridgeConfig:
    """Load a configuration from a file."""
    path = tmp_path / "bridge.toml"
    path.write_text(text, encoding="utf-8")
    return load_bridge_config(path)


def test_empty_tables_are_enough(tmp_path: Path) -> None:
    endpoints = endpoints_of(load(tmp_path, "[stripe]\n[paddle]\n"), SECRETS)
    assert [endpoint.gateway for endpoint in endpoints] == ["stripe", "paddle"]


def test_tables_reach_the_mapping(tmp_path: Path) -> None:
    text = """
        mode = "test"
        [stripe]
        source = "charge"
        package_key = "sku"
        user_key = "uid"
        [stripe.packages]
        lamp = "standard"
    """
    (endpoint,) = endpoints_of(load(tmp_path, text), SECRETS)
    event = next(case.event for case in replay_cases("stripe") if case.name == "charge succeeded")
    charge = {**event["data"]["object"], "metadata": {"uid": "ben", "sku": "lamp"}}
    mapped = endpoint.map({**event, "livemode": False, "data": {"object": charge}})
    (command,) = mapped.commands
    assert (command.user_id, command.content()["packageId"]) == ("ben", "standard")


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", "names no gateway: add a table [stripe] or [paddle]"),
        ("[stripe", "is no TOML"),
        ("[adyen]", "adyen: Extra inputs are not permitted"),
        ("mode = 'both'\n[stripe]", "mode: Input should be 'live' or 'test'"),
        ("[stripe]\nsource = 'webhook'", "stripe.source: Input should be 'payment_intent'"),
        ("[stripe]\ntolerance_s = 0", "stripe.tolerance_s: Input should be greater than or equal to 1"),
        ("[stripe]\nsecret = 'whsec_1'", "stripe.secret: Extra inputs are not permitted"),
        ("[stripe.packages]\nprice_1 = 5", "stripe.packages.price_1: Input should be a valid string"),
        ("[paddle]\nsandbox = 'no'", "paddle.sandbox: Input should be a valid boolean"),
    ],
)
def test_bad_configuration_is_refused_with_its_key(tmp_path: Path, text: str, error: str) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(error)) as refused:
        load(tmp_path, text)
    assert "bridge.toml" in str(refused.value)
    assert "whsec_1" not in str(refused.value)


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"nowhere\.toml can't be read"):
        load_bridge_config(tmp_path / "nowhere.toml")


@pytest.mark.parametrize("gateway", ["stripe", "paddle"])
def test_missing_secret_is_refused_with_the_variable(tmp_path: Path, gateway: str) -> None:
    with pytest.raises(ConfigurationError, match=f"BILLING_BRIDGE_{gateway.upper()}_SECRETS"):
        endpoints_of(load(tmp_path, f"[{gateway}]"), Secrets())


@pytest.mark.parametrize("text", ["[paddle]\nsandbox = true", "mode = 'test'\n[paddle]"])
def test_paddle_endpoint_whose_events_would_never_count_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigurationError, match=r"paddle\.sandbox"):
        endpoints_of(load(tmp_path, text), SECRETS)


def test_package_that_the_catalog_lacks_is_refused(tmp_path: Path) -> None:
    config = load(tmp_path, "[stripe.packages]\nprice_1 = 'gold'\n[stripe.tiers]\nprice_2 = 'pro'")
    config.require_sold(["gold"], ["pro"])
    with pytest.raises(
        ConfigurationError, match=r"stripe\.packages\.price_1: the catalog has no 'gold'; it has starter"
    ):
        config.require_sold(["starter"], ["pro"])
    with pytest.raises(ConfigurationError, match=r"stripe\.tiers\.price_2"):
        config.require_sold(["gold"], ["basic"])


def test_secrets_are_parted_by_commas_and_lines_and_never_shown() -> None:
    assert split_secrets("whsec_1,whsec_2\n whsec_3\n") == ("whsec_1", "whsec_2", "whsec_3")
    assert "whsec_1" not in repr(SECRETS)
    (endpoint,) = endpoints_of(BridgeConfig.model_validate({"stripe": {}}), SECRETS)
    assert "whsec_1" not in repr(endpoint)


# -- the resolver -----------------------------------------------------------------------------------------


def test_metadata_goes_before_the_customer() -> None:
    resolver = TableResolver(customers={"cus_1": "ada"})
    assert resolver.user([{}, {"user_id": "ben"}, {"user_id": "cy"}], "cus_1") == "ben"
    assert resolver.user([{}], "cus_1") == "ada"
    assert resolver.user([{}], "cus_2") is None
    assert resolver.user([{}], None) is None


def test_customer_is_the_user_where_the_configuration_says_so() -> None:
    assert TableResolver(customer_is_user=True).user([], "cus_2") == "cus_2"


@pytest.mark.parametrize("value", ["", None, True, 1.5, [], {}, 10**20])
def test_value_that_is_no_name_names_nobody(value: object) -> None:
    assert TableResolver().user([{"user_id": value}], None) is None


@pytest.mark.parametrize(
    ("value", "quantity"), [("3", 3), (3, 3), ("0", 0), ("٣", None), ("-1", None), ("1.5", None), ("x", None)]
)
def test_quantity_is_digits_alone(value: object, quantity: int | None) -> None:
    assert TableResolver().quantity({"quantity": value}) == quantity
