"""Resolution of a gateway's customers, prices and metadata to users, packages and tiers."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

Metadata = Mapping[str, Any]


class Resolver(Protocol):
    """Finds the user, the package and the tier. It must say the same about the same values each time."""

    def user(self, metadata: Iterable[Metadata], customer: str | None) -> str | None:
        """Return the user that the first of ``metadata`` names, or else the customer; None where unknown."""
        ...

    def package(self, metadata: Metadata) -> str | None:
        """Return the package that ``metadata`` names; None where it names none."""
        ...

    def package_of_price(self, price: str) -> str | None:
        """Return the package that a price sells; None where it sells none."""
        ...

    def quantity(self, metadata: Metadata) -> int | None:
        """Return the number of packages that ``metadata`` names; None where it names none."""
        ...

    def tier(self, price: str) -> str | None:
        """Return the tier that a recurring price pays for; None where it pays for none."""
        ...


@dataclass(frozen=True, slots=True)
class TableResolver:
    """Resolver of tables and the names of metadata keys.

    A package in the metadata may be the catalog's id or a price of ``packages``. With ``customer_is_user``
    the gateway's customer id is the user where nothing else names one.
    """

    user_key: str = "user_id"
    package_key: str = "package_id"
    quantity_key: str = "quantity"
    packages: Mapping[str, str] = field(default_factory=dict)
    tiers: Mapping[str, str] = field(default_factory=dict)
    customers: Mapping[str, str] = field(default_factory=dict)
    customer_is_user: bool = False

    def user(self, metadata: Iterable[Metadata], customer: str | None) -> str | None:
        """Return the user that the first of ``metadata`` names, or else the customer; None where unknown."""
        for one in metadata:
            if (user := _name(one.get(self.user_key))) is not None:
                return user
        if customer is None:
            return None
        return self.customers.get(customer) or (customer if self.customer_is_user else None)

    def package(self, metadata: Metadata) -> str | None:
        """Return the package that ``metadata`` names; None where it names none."""
        name = _name(metadata.get(self.package_key))
        return None if name is None else self.packages.get(name, name)

    def package_of_price(self, price: str) -> str | None:
        """Return the package that a price sells; None where it sells none."""
        return self.packages.get(price)

    def quantity(self, metadata: Metadata) -> int | None:
        """Return the number of packages that ``metadata`` names; None where it names none."""
        name = _name(metadata.get(self.quantity_key))
        return int(name) if name is not None and name.isascii() and name.isdigit() and len(name) < 9 else None

    def tier(self, price: str) -> str | None:
        """Return the tier that a recurring price pays for; None where it pays for none."""
        return self.tiers.get(price)


def _name(value: Any) -> str | None:
    """Return a name that is text or, as in Paddle's custom data, a whole number."""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value) if abs(value) < 10**18 else None
    return value if isinstance(value, str) and value else None
