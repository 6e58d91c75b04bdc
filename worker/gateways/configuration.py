"""Configuration of the bridge: a TOML file for the tables, secrets from elsewhere."""

import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt, ValidationError, model_validator

from schemas import WantedReplies
from schemas.fields import Identifier, Label
from worker.errors import ConfigurationError
from worker.gateways.bridge import Endpoint
from worker.gateways.paddle import PADDLE_TYPES, PaddleRules, map_paddle
from worker.gateways.resolving import TableResolver
from worker.gateways.signatures import PADDLE, STRIPE, TOLERANCE_S
from worker.gateways.stripe import STRIPE_TYPES, PaymentSource, StripeRules, map_stripe


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class GatewayTables(_Model):
    """Names of a gateway for users, packages and tiers, and the tolerance of its signatures."""

    user_key: Label = "user_id"
    package_key: Label = "package_id"
    quantity_key: Label = "quantity"
    packages: Mapping[Identifier, Identifier] = {}
    tiers: Mapping[Identifier, Identifier] = {}
    customers: Mapping[Identifier, Identifier] = {}
    customer_is_user: StrictBool = False
    tolerance_s: Annotated[StrictInt, Field(ge=1, le=3600)] = TOLERANCE_S

    def resolver(self) -> TableResolver:
        """Return the resolver of these tables."""
        return TableResolver(
            user_key=self.user_key,
            package_key=self.package_key,
            quantity_key=self.quantity_key,
            packages=self.packages,
            tiers=self.tiers,
            customers=self.customers,
            customer_is_user=self.customer_is_user,
        )


class StripeTables(GatewayTables):
    """Stripe's tables, and the object that tells a payment."""

    source: PaymentSource = PaymentSource.PAYMENT_INTENT


class PaddleTables(GatewayTables):
    """Paddle's tables. Its events don't say what they are: with ``sandbox`` the endpoint's are tests."""

    sandbox: StrictBool = False


class BridgeConfig(_Model):
    """Configuration of the bridge. ``mode`` says which events count: live ones, or tests."""

    mode: Literal["live", "test"] = "live"
    replies: WantedReplies = "all"
    stripe: StripeTables | None = None
    paddle: PaddleTables | None = None

    @model_validator(mode="after")
    def _some_gateway(self) -> Self:
        if self.stripe is None and self.paddle is None:
            raise ValueError("names no gateway: add a table [stripe] or [paddle], which may be empty")
        return self

    @property
    def gateways(self) -> Mapping[str, GatewayTables]:
        """Tables of the gateways that are there, by their names."""
        both = {"stripe": self.stripe, "paddle": self.paddle}
        return {name: tables for name, tables in both.items() if tables is not None}

    def require_sold(self, packages: Iterable[str], tiers: Iterable[str]) -> None:
        """Raise ConfigurationError for a package or tier that the catalog lacks: it would credit nothing."""
        known = {"packages": set(packages), "tiers": set(tiers)}
        for gateway, tables in self.gateways.items():
            for kind, table in (("packages", tables.packages), ("tiers", tables.tiers)):
                for price, name in table.items():
                    if name not in known[kind]:
                        raise ConfigurationError(
                            f"bridge: {gateway}.{kind}.{price}: the catalog has no {name!r}; "
                            f"it has {', '.join(sorted(known[kind]))}"
                        )


@dataclass(frozen=True, slots=True)
class Secrets:
    """Secrets of the endpoints, several of each while they change. They are shown nowhere."""

    stripe: Sequence[str] = ()
    paddle: Sequence[str] = ()

    def __repr__(self) -> str:
        return "Secrets(***)"


def split_secrets(text: str) -> tuple[str, ...]:
    """Return the secrets of a text, which commas or white space part."""
    return tuple(text.replace(",", " ").split())


def load_bridge_config(path: Path) -> BridgeConfig:
    """Return the configuration. Raises ConfigurationError that names the file and the key."""
    try:
        return BridgeConfig.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise ConfigurationError(f"bridge: {path} can't be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"bridge: {path} is not UTF-8") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"bridge: {path} is no TOML: {error}") from error
    except ValidationError as error:
        problems = "; ".join(_problem(item) for item in error.errors(include_url=False, include_input=False))
        raise ConfigurationError(f"bridge: {path}: {problems}") from None


def _problem(item: Any) -> str:
    place = ".".join(str(part) for part in item["loc"] if part != "[key]")
    text = item["msg"].removeprefix("Value error, ")
    return f"{place}: {text}" if place else text


def endpoints_of(config: BridgeConfig, secrets: Secrets) -> Sequence[Endpoint]:
    """Return the endpoints. Raises ConfigurationError where one has no secret, or could count nothing."""
    takes_live = config.mode == "live"
    found: list[Endpoint] = []
    if config.stripe is not None:
        found.append(_stripe(config.stripe, secrets.stripe, takes_live=takes_live))
    if config.paddle is not None:
        found.append(_paddle(config.paddle, secrets.paddle, takes_live=takes_live))
    return found


def _stripe(tables: StripeTables, secrets: Sequence[str], *, takes_live: bool) -> Endpoint:
    rules = StripeRules(tables.resolver(), tables.source, takes_live=takes_live)
    return Endpoint(
        gateway="stripe",
        scheme=STRIPE,
        secrets=_required("stripe", secrets),
        tolerance_s=tables.tolerance_s,
        map=lambda event: map_stripe(event, rules),
        type_key="type",
        types=STRIPE_TYPES,
    )


def _paddle(tables: PaddleTables, secrets: Sequence[str], *, takes_live: bool) -> Endpoint:
    if tables.sandbox is takes_live:
        raise ConfigurationError(
            "bridge: paddle.sandbox: none of its events would count; "
            'a sandbox goes with mode = "test", and only a sandbox does'
        )
    rules = PaddleRules(tables.resolver(), live=not tables.sandbox, takes_live=takes_live)
    return Endpoint(
        gateway="paddle",
        scheme=PADDLE,
        secrets=_required("paddle", secrets),
        tolerance_s=tables.tolerance_s,
        map=lambda event: map_paddle(event, rules),
        type_key="event_type",
        types=PADDLE_TYPES,
    )


def _required(gateway: str, secrets: Sequence[str]) -> Sequence[str]:
    if not secrets:
        name = gateway.upper()
        raise ConfigurationError(
            f"bridge: {gateway} has no secret: set BILLING_BRIDGE_{name}_SECRETS, or name a file that holds "
            f"it in BILLING_BRIDGE_{name}_SECRETS_FILE"
        )
    return secrets
