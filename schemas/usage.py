"""Commands that use tokens: at once, under a hold, by a meter, or many in one message."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Self, final

from pydantic import Field, PrivateAttr, StrictInt, model_validator

from schemas.base import BaseMessage, CommandAbout, OpeningCommand
from schemas.fields import Identifier, Label, Quantity, UsageQuantity, UtcTimestamp, WantedReplies
from schemas.malformed import Malformed

#: Most items that one ``usage.batch`` takes.
BATCH_MAX_ITEMS = 1_000
#: Fault of an item that says which replies it wants.
ONE_REPLY_TEXT = "a batch has one reply to all its items; give `replies` to the batch, beside `items`"
#: Longest life of a hold, in seconds: 31 days.
HOLD_MAX_SECONDS = 31 * 24 * 3600

#: Life of a hold from now on, in seconds.
HoldSeconds = Annotated[StrictInt, Field(ge=1, le=HOLD_MAX_SECONDS)]


class UsageWithDeadline(OpeningCommand):
    """Base of usage that its sender may give up: decided later than ``valid_until`` it is rejected.

    The time is no part of the content: what was applied in time stays applied, whenever it comes again.
    """

    valid_until: UtcTimestamp | None = None


class DeductUsage(UsageWithDeadline):
    """Takes tokens, or is rejected for insufficient balance. Analytics group by ``feature``.

    ``tokens`` may be 0: the usage is applied and moves nothing.
    """

    CONTENT = ("tokens", "feature", "open_tier")
    QUANTITIES = ("tokens",)
    type: Literal["usage.deduct"] = "usage.deduct"
    tokens: UsageQuantity
    feature: Label | None = None


class FreeUpload(UsageWithDeadline):
    """Counts bytes against the tier's free-upload limit of the period; 0 bytes move nothing."""

    CONTENT = ("bytes", "open_tier")
    QUANTITIES = ("bytes",)
    type: Literal["usage.free_upload"] = "usage.free_upload"
    bytes: UsageQuantity


class ReserveUsage(UsageWithDeadline):
    """Holds tokens for work whose price is not known yet; they can't be spent otherwise meanwhile.

    After ``ttl_seconds`` (to 31 days) the hold runs out by itself. Its name is this reference.
    """

    CONTENT = ("tokens", "ttl_seconds", "open_tier")
    QUANTITIES = ("tokens",)
    type: Literal["usage.reserve"] = "usage.reserve"
    tokens: Quantity
    ttl_seconds: HoldSeconds


class SettleUsage(CommandAbout):
    """Captures the actual amount of the hold ``original_reference_id`` and releases the rest.

    ``tokens`` may be 0. Where they are more than was held, the difference is taken from what is available
    (``on_excess: take``), or the command is refused (``refuse``). Where the hold had run out before, up to
    ``tokens`` are taken from what is available (``on_expired: take``), once; or the command is refused.
    """

    CONTENT = ("original_reference_id", "tokens", "on_excess", "on_expired", "feature")
    QUANTITIES = ("tokens",)
    type: Literal["usage.settle"] = "usage.settle"
    tokens: UsageQuantity
    on_excess: Literal["refuse", "take"] = "refuse"
    on_expired: Literal["take", "refuse"] = "take"
    feature: Label | None = None

    def content(self) -> dict[str, Any]:
        """Return the content, without ``on_expired`` where it is the default.

        The field is younger than commands that are stored: one that comes again must be equal to them.
        """
        content = super().content()
        if self.on_expired == "take":
            del content["onExpired"]
        return content


class ExtendUsage(CommandAbout):
    """Renews the hold ``original_reference_id``: it ends ``ttl_seconds`` from now, never earlier than before.

    A hold that has run out is closed, whether or not somebody has posted its end.
    """

    CONTENT = ("original_reference_id", "ttl_seconds")
    type: Literal["usage.extend"] = "usage.extend"
    ttl_seconds: HoldSeconds


class ReleaseUsage(CommandAbout):
    """Gives the hold ``original_reference_id`` up; its tokens are available again."""

    CONTENT = ("original_reference_id",)
    type: Literal["usage.release"] = "usage.release"


class RecordUsage(UsageWithDeadline):
    """Meters usage: ``quantity`` units of ``meter``, from the tier's free units first, then for tokens.

    ``quantity`` may be 0: the usage is applied and moves nothing.
    """

    CONTENT = ("meter", "quantity", "feature", "open_tier")
    QUANTITIES = ("quantity",)
    type: Literal["usage.record"] = "usage.record"
    meter: Label
    quantity: UsageQuantity
    feature: Label | None = None


#: Commands that an item of a batch may be.
BatchItem = DeductUsage | RecordUsage | FreeUpload

#: The same by its ``type``.
ITEM_TYPES: dict[str, type[BatchItem]] = {
    "usage.deduct": DeductUsage,
    "usage.record": RecordUsage,
    "usage.free_upload": FreeUpload,
}


class BatchEnvelope(BaseMessage):
    """A ``usage.batch`` without its items: only its own fields.

    ``replies`` is about the one reply to all items: one that is rejected or failed makes it a problem.
    """

    type: Literal["usage.batch"] = "usage.batch"
    reference_id: Identifier
    user_id: Identifier | None = None
    replies: WantedReplies | None = None


# Final, so that ``type(message) is UsageBatch`` tells it: isinstance asks pydantic's metaclass, which takes
# ten times as long, and every message is asked several times.
@final
class UsageBatch(BatchEnvelope):
    """Up to 1,000 usage commands in one message: each with its own reference and outcome, one reply to all.

    An item without ``userId`` is the batch's user's. The items are applied in order, in one transaction; the
    batch's own reference names its reply and nothing in the ledger.
    """

    items: Annotated[
        tuple[Annotated[BatchItem, Field(discriminator="type")], ...],
        Field(min_length=1, max_length=BATCH_MAX_ITEMS),
    ]
    _malformed: Mapping[int, Malformed] = PrivateAttr(default_factory=dict)

    @classmethod
    def received(
        cls, envelope: BatchEnvelope, items: Sequence[BatchItem], malformed: Mapping[int, Malformed]
    ) -> "UsageBatch":
        """Return the batch of ``items``, which are commands, and of malformed ones by their places.

        The malformed ones are answered by themselves. A batch that a producer builds has none.
        """
        batch = cls.model_construct(**dict(envelope), items=tuple(items))
        batch.__pydantic_private__ = {"_malformed": malformed}
        return batch

    @property
    def malformed(self) -> Mapping[int, Malformed]:
        """The items that are no commands, by their places in the message, in order."""
        return self._malformed

    @property
    def places(self) -> Sequence[int]:
        """The place in the message of each of ``items``, from 0."""
        size = len(self.items) + len(self._malformed)
        return [place for place in range(size) if place not in self._malformed]

    @model_validator(mode="after")
    def _replies_of_the_batch(self) -> Self:
        if any(item.replies is not None for item in self.items):
            raise ValueError(ONE_REPLY_TEXT)
        return self

    @model_validator(mode="before")
    @classmethod
    def _items_of_the_user(cls, data: Any) -> Any:
        """Give each item the batch's user where it names none."""
        if not isinstance(data, Mapping) or not isinstance(items := data.get("items"), list | tuple):
            return data
        user_id = data.get("userId", data.get("user_id"))
        if user_id is None:
            return data
        return {**data, "items": [_owned(item, user_id) for item in items]}


def _owned(item: Any, user_id: Any) -> Any:
    if isinstance(item, Mapping) and "userId" not in item and "user_id" not in item:
        return {**item, "userId": user_id}
    return item
