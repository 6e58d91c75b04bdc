"""Tiers, packages and pricing rules: what is for sale, as data.

The packaged default is ``catalog.toml`` beside this file; an operator's own file has the same form.
Errors name the file and the key.
"""

import tomllib
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StrictInt, ValidationError, model_validator

from schemas.fields import INT64_MAX, Currency, Identifier
from worker.errors import ConfigurationError

Amount = Annotated[StrictInt, Field(ge=0, le=INT64_MAX)]
PositiveAmount = Annotated[StrictInt, Field(gt=0, le=INT64_MAX)]

DEFAULT_CATALOG = Path(__file__).with_name("catalog.toml")


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Tier(_Model):
    """A subscription tier: tokens granted a month, bytes uploaded free a calendar month (UTC)."""

    monthly_tokens: Amount
    free_upload_bytes: Amount


class Package(_Model):
    """A token package: what is credited (base and bonus) and what it costs in minor units of the currency."""

    id: Identifier
    tokens: PositiveAmount
    bonus_tokens: Amount = 0
    price_minor: PositiveAmount
    currency: Currency


class PricingRule(_Model):
    """What a meter costs: ``tokens`` for each ``per`` units, rounded as said, at least ``minimum_tokens``.

    Read and checked now; metered usage is charged by it in a later version.
    """

    unit: Identifier
    per: PositiveAmount
    tokens: Amount
    rounding: Literal["up", "down", "half_even"] = "up"
    minimum_tokens: Amount = 0


class Catalog(_Model):
    """All that is for sale. Packages keep their order: the position is the seed's ``packageIndex``."""

    tiers: Mapping[Identifier, Tier]
    packages: tuple[Package, ...]
    pricing: Mapping[Identifier, PricingRule] = {}

    @model_validator(mode="after")
    def _unique_packages(self) -> Self:
        ids = [package.id for package in self.packages]
        if twice := next((id_ for id_ in ids if ids.count(id_) > 1), None):
            raise ValueError(f"packages: the id {twice!r} is given twice")
        return self

    @cached_property
    def _by_id(self) -> dict[str, Package]:
        return {package.id: package for package in self.packages}

    def package(self, package_id: str | None, index: int | None) -> Package | None:
        """The package of that id, or at that position (from 0); None where there is none."""
        if package_id is not None:
            return self._by_id.get(package_id)
        if index is not None and index < len(self.packages):
            return self.packages[index]
        return None


def load_catalog(path: Path | None = None) -> Catalog:
    """The catalog in ``path``, or the packaged default.

    Raises ConfigurationError that names the file and the key.
    """
    source = DEFAULT_CATALOG if path is None else path
    try:
        data: Any = tomllib.loads(source.read_text(encoding="utf-8"))
        return Catalog.model_validate(data)
    except OSError as error:
        raise ConfigurationError(f"catalog {source}: cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"catalog {source}: is not TOML: {error}") from error
    except ValidationError as error:
        problems = "; ".join(_problem(item["loc"], item["msg"]) for item in error.errors(include_url=False))
        raise ConfigurationError(f"catalog {source}: {problems}") from error


def _problem(location: tuple[int | str, ...], message: str) -> str:
    key = ".".join(str(part) for part in location if part != "[key]")
    text = message.removeprefix("Value error, ")
    return f"{key}: {text}" if key else text
