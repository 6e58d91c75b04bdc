"""Fields that every command carries.

``CONTENT`` names the fields that move the ledger. Two messages with the same reference are the same
operation when these agree; transport fields, times and free text don't count, unless a time decides what
the ledger does (an expiry, a period).
"""

from datetime import datetime
from functools import partial
from operator import eq
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Final, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StrictInt, model_validator
from pydantic.alias_generators import to_camel

from schemas.fields import FreeText, Identifier, Metadata, Timestamp, WantedReplies

#: User of a command that names none: the ledger finds the owner of the payment it is about.
NO_USER: Final = ""


def _or_unnamed(user_id: str | None) -> str:
    return user_id or NO_USER


if TYPE_CHECKING:
    OptionalUser = str
else:
    # Absent or null is NO_USER, so that every command has a user to compare.
    OptionalUser = Annotated[Identifier | None, AfterValidator(_or_unnamed)]


def optional_user() -> Any:
    """Return the field of a user who need not be named; one that is not stays off the wire."""
    return Field(default_factory=str, exclude_if=partial(eq, NO_USER))


class BaseMessage(BaseModel):
    """One JSON object: camelCase on the wire, frozen, unknown fields refused."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        alias_generator=to_camel,
        validate_by_name=True,
        validate_by_alias=True,
        serialize_by_alias=True,
    )

    #: Fields that hold magnitudes, for the configured maximum; a part among them has its own.
    QUANTITIES: ClassVar[tuple[str, ...]] = ()

    def to_json(self) -> bytes:
        """Return the message body that a producer publishes."""
        return self.model_dump_json(exclude_none=True).encode()


class BaseCommand(BaseMessage):
    """Base of all commands: the fields that each of them carries.

    ``reference_id`` names the operation in the whole ledger, for ever. ``attempt`` (from 1) asks for a
    rejected reference to be judged anew; an applied one never is. It is at most 1,000 above the stored one.
    ``replies`` says which replies the sender wants; without it all. The outcome is stored all the same.

    ``ADDED`` names the fields of the content that earlier versions did not store: where a stored content
    lacks one, it is not compared.
    """

    CONTENT: ClassVar[tuple[str, ...]] = ()
    ADDED: ClassVar[tuple[str, ...]] = ()
    _WIRE_NAMES: ClassVar[tuple[tuple[str, str], ...]] = ()

    reference_id: Identifier
    user_id: Identifier
    occurred_at: Timestamp | None = None
    metadata: Metadata | None = None
    attempt: Annotated[StrictInt, Field(ge=1, le=1_000_000)] = 1
    description: FreeText | None = None
    replies: WantedReplies | None = None

    @classmethod
    def __pydantic_init_subclass__(cls, **_: Any) -> None:
        """Compute the names of the content once for each class: every message needs them."""
        cls._WIRE_NAMES = tuple(sorted((to_camel(name), name) for name in cls.CONTENT))

    def content(self) -> dict[str, Any]:
        """Return the fields that move the ledger by their names on the wire, in order, without absent ones.

        Times, which are UTC here, are text: one moment has one form whatever its offset was.
        """
        return {
            wire: _plain(value)
            for wire, name in self._WIRE_NAMES
            if (value := getattr(self, name)) is not None
        }


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    return value.content() if isinstance(value, BasePart) else value


class BasePart(BaseMessage):
    """Object within a command. ``content`` returns those of its fields that move the ledger."""

    CONTENT: ClassVar[tuple[str, ...]] = ()

    def content(self) -> dict[str, Any]:
        """Return the fields that move the ledger by their names on the wire, without absent ones."""
        return {to_camel(name): value for name in self.CONTENT if (value := getattr(self, name)) is not None}


class CommandAbout(BaseCommand):
    """A command about an earlier operation, which ``original_reference_id`` names; its own reference differs.

    If they were the same, the later of the two would be a conflict: a refund under its payment's reference
    would block the payment.
    """

    original_reference_id: Identifier

    @model_validator(mode="after")
    def _not_itself(self) -> Self:
        if self.original_reference_id == self.reference_id:
            raise ValueError(
                "originalReferenceId names this command itself; give it a referenceId of its own"
            )
        return self


class OpeningCommand(BaseCommand):
    """A command that opens a missing account, on ``open_tier`` or the catalog's ``auto_open``.

    These are what a user's first days bring: usage at once or under a hold, credit, and payments. Events of a
    payment are among them, because they come in any order. What is about an earlier hold or usage, or about
    the account itself, finds an account or is rejected.
    """

    open_tier: Identifier | None = None
