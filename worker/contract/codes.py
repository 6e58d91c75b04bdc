"""Meaning of each code, and the way on from it: the one table behind ``codes.json``.

A new code gets its line here and in ``schemas/README.md``, in the same words.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from schemas import SCHEMA_VERSION, Code, DeadLetterReason, ProblemCode, Status
from schemas.http import STATUS_OF, STATUS_OF_REQUEST, RequestCode


class Retry(StrEnum):
    """Ways on from a code."""

    NEVER = "never"
    AGAIN = "again"
    MENDED = "mended"
    NEXT_ATTEMPT = "next_attempt"
    NEW_REFERENCE = "new_reference"


class Actor(StrEnum):
    """Parties that may have to act."""

    CALLER = "caller"
    OPERATOR = "operator"
    NOBODY = "nobody"


RETRIES: Final = {
    Retry.NEVER: "Nothing is gained by sending it again.",
    Retry.AGAIN: "Send the same message again, with the same reference: it is applied at most once.",
    Retry.MENDED: "Mend the message and send it with the same reference: nothing is stored under it.",
    Retry.NEXT_ATTEMPT: "Mend the cause, then send the same reference with `attempt` one higher.",
    Retry.NEW_REFERENCE: "Send it with a reference of its own: this one names another operation.",
}


@dataclass(frozen=True, slots=True)
class CodeEntry:
    """Meaning of a code, how to go on, and who must act first."""

    means: str
    retry: Retry = Retry.NEVER
    acts: Actor = Actor.NOBODY


@dataclass(frozen=True, slots=True)
class ReplyCodeEntry(CodeEntry):
    """The same of a reply. ``durable`` codes are stored: a redelivery gets the same reply."""

    status: Status = Status.APPLIED
    durable: bool = True


@dataclass(frozen=True, slots=True)
class ReasonEntry(CodeEntry):
    """The same of a dead letter.

    ``reply`` is the code of the reply that goes out beside it, if one does.
    """

    reply: Code | None = None


def _applied(means: str) -> ReplyCodeEntry:
    return ReplyCodeEntry(means)


def _rejected(means: str, retry: Retry, acts: Actor, *, durable: bool = True) -> ReplyCodeEntry:
    return ReplyCodeEntry(means, retry, acts, Status.REJECTED, durable)


def _failed(means: str, retry: Retry, acts: Actor) -> ReplyCodeEntry:
    return ReplyCodeEntry(means, retry, acts, Status.FAILED, durable=False)


REPLY_CODES: Final[dict[Code, ReplyCodeEntry]] = {
    Code.ACCOUNT_OPENED: _applied("the account is open and has its first allocation"),
    Code.TOKENS_DEDUCTED: _applied("the usage is posted"),
    Code.FREE_UPLOAD_COUNTED: _applied("the bytes count against the free uploads"),
    Code.TOKENS_PURCHASED: _applied("the package is credited"),
    Code.TOKENS_REFUNDED: _applied("tokens of a usage are back"),
    Code.BONUS_GRANTED: _applied("the bonus is spendable"),
    Code.BONUS_SCHEDULED: _applied("the bonus takes effect later"),
    Code.ADJUSTMENT_CREDITED: _applied("an operator gave tokens"),
    Code.ADJUSTMENT_DEBITED: _applied("an operator took tokens"),
    Code.ACCOUNT_SETTLED: _applied("what was due is posted"),
    Code.TOKENS_RESERVED: _applied("the hold is open"),
    Code.HOLD_SETTLED: _applied("the hold is captured and closed"),
    Code.HOLD_RELEASED: _applied("the hold is given up"),
    Code.HOLD_EXTENDED: _applied("the hold ends later, at `expiresAt`"),
    Code.HOLD_SETTLED_LATE: _applied(
        "the hold had run out; `amount` of `required` was taken from what was available"
    ),
    Code.USAGE_RECORDED: _applied("the metered usage is posted"),
    Code.BATCH_PROCESSED: _applied("each item has its own reply"),
    Code.SUBSCRIPTION_CHANGED: _applied("the account is on another tier"),
    Code.SUBSCRIPTION_RENEWED: _applied("the period's allocation is granted"),
    Code.RENEWAL_SCHEDULED: _applied("the allocation takes effect when its period begins"),
    Code.SUBSCRIPTION_CANCELED: _applied("no more periods follow"),
    Code.PAYMENT_REFUNDED: _applied("tokens of refunded money are taken back"),
    Code.PAYMENT_DISPUTED: _applied("the dispute is recorded"),
    Code.DISPUTE_WON: _applied("what was taken for the dispute is back"),
    Code.DISPUTE_LOST: _applied("tokens of the lost money are taken back"),
    Code.PAYMENT_FAILED: _applied("all that the payment bought is taken back"),
    Code.PAYMENT_AWAITED: _applied("recorded; counts when its payment comes"),
    Code.ACCOUNT_IMPORTED: _applied("the account has what it had elsewhere"),
    Code.PAYMENT_IMPORTED: _applied(
        "the payment came with an account; only a question about its reference shows it"
    ),
    Code.PURCHASE_FLAGGED: ReplyCodeEntry(
        "the package is credited although its price differs; an operator sees it", acts=Actor.OPERATOR
    ),
    Code.REFUND_FAILED: _applied("the refund no longer counts; its tokens are back"),
    Code.REFUND_STYLE_MIXED: ReplyCodeEntry(
        "the refund counts, but the payment has single refunds and totals; the larger sum is taken back",
        acts=Actor.OPERATOR,
    ),
    Code.INQUIRY_OPENED: _applied("the inquiry is recorded; it takes nothing"),
    Code.DISPUTE_PREVENTED: _applied("the dispute took nothing, what was taken for it is back"),
    Code.DISPUTE_WITHDRAWN: _applied("the dispute was given up, what was taken for it is back"),
    Code.CHANGE_SCHEDULED: _applied("the tier changes with the next period"),
    Code.FREEZE_BEGAN: _applied("usage and holds are rejected from now on"),
    Code.FREEZE_ENDED: _applied("usage and holds are taken again"),
    Code.CANCELLATION_LATE: _applied("the subscription was taken up since, and goes on"),
    Code.PAYMENT_NAMED: _applied("the payment has these names, also where it is still to come"),
    Code.INSUFFICIENT_BALANCE: _rejected(
        "fewer tokens are available than required", Retry.NEXT_ATTEMPT, Actor.CALLER
    ),
    Code.ACCOUNT_NOT_FOUND: _rejected("the user has no account", Retry.NEXT_ATTEMPT, Actor.CALLER),
    Code.ACCOUNT_EXISTS: _rejected("the user has an account already", Retry.NEVER, Actor.NOBODY),
    Code.FREE_UPLOAD_LIMIT_EXCEEDED: _rejected(
        "the free uploads of the period don't suffice", Retry.NEXT_ATTEMPT, Actor.CALLER
    ),
    Code.UNKNOWN_PACKAGE: _rejected("the catalog has no such package", Retry.NEXT_ATTEMPT, Actor.OPERATOR),
    Code.UNKNOWN_TIER: _rejected("the catalog has no such tier", Retry.NEXT_ATTEMPT, Actor.OPERATOR),
    Code.AMOUNT_MISMATCH: _rejected(
        "the amount or currency is not the package's price", Retry.NEXT_ATTEMPT, Actor.OPERATOR
    ),
    Code.CURRENCY_MISMATCH: _rejected(
        "the currency of a refund is not the payment's", Retry.NEXT_ATTEMPT, Actor.OPERATOR
    ),
    Code.HOLD_NOT_FOUND: _rejected(
        "no hold of this user has this reference", Retry.NEXT_ATTEMPT, Actor.CALLER
    ),
    Code.HOLD_CLOSED: _rejected("the hold has ended; `state` says how", Retry.NEVER, Actor.CALLER),
    Code.HOLD_EXCEEDED: _rejected(
        "more than was held, and `onExcess` is `refuse`", Retry.NEXT_ATTEMPT, Actor.CALLER
    ),
    Code.UNKNOWN_METER: _rejected("the catalog has no such price rule", Retry.NEXT_ATTEMPT, Actor.OPERATOR),
    Code.ORIGINAL_REQUIRED: _rejected("the refund must name a usage", Retry.NEXT_ATTEMPT, Actor.CALLER),
    Code.ORIGINAL_NOT_FOUND: _rejected(
        "the original reference is not this user's, or names no payment", Retry.NEXT_ATTEMPT, Actor.CALLER
    ),
    Code.ORIGINAL_NOT_REFUNDABLE: _rejected(
        "the original is no applied usage, or nothing of it is left to give back", Retry.NEVER, Actor.CALLER
    ),
    Code.REFUND_EXCEEDS_ORIGINAL: _rejected(
        "more than is left of the usage's tokens, or of its free units (`field`)",
        Retry.NEXT_ATTEMPT,
        Actor.CALLER,
    ),
    Code.CREDIT_EXPIRED: _rejected("`expiresAt` is past", Retry.NEXT_ATTEMPT, Actor.CALLER),
    Code.PERIOD_ALREADY_GRANTED: _rejected("the period has its allocation", Retry.NEVER, Actor.NOBODY),
    Code.PERIOD_OUT_OF_RANGE: _rejected(
        "the period is neither the present nor the next one", Retry.NEXT_ATTEMPT, Actor.CALLER
    ),
    Code.SUBSCRIPTION_NOT_ACTIVE: _rejected("the subscription is canceled", Retry.NEXT_ATTEMPT, Actor.CALLER),
    Code.TOO_LATE: _rejected("it was decided after its `validUntil`", Retry.NEXT_ATTEMPT, Actor.CALLER),
    Code.REFERENCE_TAKEN: _rejected(
        "a payment has a name that is another payment's, or one of an import names an operation",
        Retry.NEXT_ATTEMPT,
        Actor.CALLER,
    ),
    Code.ALLOCATION_OUTLASTS_PERIOD: _rejected(
        "an imported allocation ends after the period; import it as `carried_over`",
        Retry.NEXT_ATTEMPT,
        Actor.CALLER,
    ),
    Code.ACCOUNT_FROZEN: _rejected(
        "the account is frozen: no usage and no holds", Retry.NEXT_ATTEMPT, Actor.OPERATOR
    ),
    Code.REFERENCE_CONFLICT: _rejected(
        "the reference names another operation; a dead letter as well",
        Retry.NEW_REFERENCE,
        Actor.CALLER,
        durable=False,
    ),
    Code.MALFORMED: _failed("no command; `reason` and `field` say why", Retry.MENDED, Actor.CALLER),
    Code.UNPROCESSABLE: _failed(
        "fault of the worker; operators have the message", Retry.AGAIN, Actor.OPERATOR
    ),
}


def _malformed(means: str, acts: Actor = Actor.CALLER) -> ReasonEntry:
    return ReasonEntry(means, Retry.MENDED, acts, Code.MALFORMED)


def _from_broker(means: str) -> ReasonEntry:
    return ReasonEntry(means, Retry.AGAIN, Actor.OPERATOR)


DEAD_LETTER_REASONS: Final[dict[DeadLetterReason, ReasonEntry]] = {
    DeadLetterReason.BODY_TOO_LARGE: _malformed("the body is over 256 KiB"),
    DeadLetterReason.BYTE_ORDER_MARK: _malformed("the body begins with a byte order mark"),
    DeadLetterReason.NOT_UTF8: _malformed("the body is not UTF-8"),
    DeadLetterReason.NOT_JSON: _malformed("the body is not JSON"),
    DeadLetterReason.TOO_DEEP: _malformed("the body is nested too deeply"),
    DeadLetterReason.DUPLICATE_FIELD: _malformed("a field is given twice"),
    DeadLetterReason.NOT_AN_OBJECT: _malformed("the body is JSON, and no object"),
    DeadLetterReason.MISSING_FIELD: _malformed("a required field is missing"),
    DeadLetterReason.UNKNOWN_FIELD: _malformed("a field is not known"),
    DeadLetterReason.UNKNOWN_TYPE: _malformed("the type is not known"),
    DeadLetterReason.INVALID_FIELD: _malformed("the value of a field is refused"),
    DeadLetterReason.INVALID_ID: _malformed(
        "a new id could pass for another one, or does not match `BILLING_ID_PATTERN`: see [ids](#ids)"
    ),
    DeadLetterReason.WRONG_SENDER: _malformed(
        "the sender may not send this type, or not with this reference", Actor.OPERATOR
    ),
    DeadLetterReason.WRONG_ROUTING_KEY: _malformed(
        "the routing key is neither the type nor it with a partition"
    ),
    DeadLetterReason.WRONG_EXCHANGE: _malformed(
        "it came by another way than an exchange of commands: the default exchange, one bound to it, or a "
        "dead-letter exchange"
    ),
    DeadLetterReason.WRONG_LANE: _malformed(
        "the bulk lane takes `usage.*` alone; send it to the exchange `billing`"
    ),
    DeadLetterReason.UNREADABLE_PROPERTIES: _malformed("properties or headers can't be parsed"),
    DeadLetterReason.REFERENCE_CONFLICT: ReasonEntry(
        "the reference names another operation", Retry.NEW_REFERENCE, Actor.CALLER, Code.REFERENCE_CONFLICT
    ),
    DeadLetterReason.UNPROCESSABLE: ReasonEntry(
        "the worker met a fault; the dead letter has its traceback",
        Retry.AGAIN,
        Actor.OPERATOR,
        Code.UNPROCESSABLE,
    ),
    DeadLetterReason.DELIVERY_LIMIT: ReasonEntry(
        "three workers crashed while it was applied alone, or the broker's delivery limit was reached; it "
        "may have been applied",
        Retry.AGAIN,
        Actor.OPERATOR,
        Code.UNPROCESSABLE,
    ),
    DeadLetterReason.NOTICE_REFUSED: _from_broker(
        "a queue bound to `billing.events` is full; the message is a notice"
    ),
    DeadLetterReason.REJECTED: _from_broker("its header `x-death` says so: a consumer rejected it"),
    DeadLetterReason.EXPIRED: _from_broker("its header `x-death` says so: its time to live ended"),
    DeadLetterReason.MAXLEN: _from_broker("its header `x-death` says so: its queue was full"),
    DeadLetterReason.UNKNOWN: _from_broker(
        "no worker vouches for it and its header `x-death` names no reason; look at who sent it"
    ),
}

#: Queries store nothing: `again` and `mended` are all that there is to retry.
PROBLEM_CODES: Final[dict[ProblemCode, CodeEntry]] = {
    ProblemCode.ACCOUNT_NOT_FOUND: CodeEntry(
        "the user has no account, or had none at that time; a balance of zero is an answer"
    ),
    ProblemCode.MALFORMED: CodeEntry("it is no query: mend the caller", Retry.MENDED, Actor.CALLER),
    ProblemCode.NOT_ALLOWED: CodeEntry("the sender may not ask this", Retry.MENDED, Actor.OPERATOR),
    ProblemCode.SEQUENCE_NOT_REACHED: CodeEntry("`minSequence` is not there yet: ask again", Retry.AGAIN),
    ProblemCode.UNAVAILABLE: CodeEntry("the database doesn't answer: ask again", Retry.AGAIN, Actor.OPERATOR),
    ProblemCode.UNPROCESSABLE: CodeEntry(
        "a fault of the reader's; operators have it in the log", Retry.NEVER, Actor.OPERATOR
    ),
}

#: The HTTP door alone has these.
REQUEST_CODES: Final[dict[RequestCode, CodeEntry]] = {
    RequestCode.UNAUTHENTICATED: CodeEntry("no token, or none that is known", Retry.MENDED, Actor.CALLER),
    RequestCode.NOT_FOUND: CodeEntry("there is no such path; `detail` names all", Retry.MENDED, Actor.CALLER),
    RequestCode.METHOD_NOT_ALLOWED: CodeEntry(
        "only `GET` and `HEAD` are taken; commands go through the broker", Retry.MENDED, Actor.CALLER
    ),
    RequestCode.TOO_MANY_REQUESTS: CodeEntry(
        "too many queries that read much, at once; ask again", Retry.AGAIN
    ),
}


def codes() -> dict[str, Any]:
    """Return the document ``codes.json``."""
    return {
        "$comment": "Written by `make contract`. A later version may have more codes: go by `status` then.",
        "schemaVersion": SCHEMA_VERSION,
        "retry": {retry.value: text for retry, text in RETRIES.items()},
        "codes": {
            code.value: {"status": entry.status.value, "durable": entry.durable, **_common(entry)}
            for code, entry in REPLY_CODES.items()
        },
        "deadLetterReasons": {
            reason.value: {"reply": None if entry.reply is None else entry.reply.value, **_common(entry)}
            for reason, entry in DEAD_LETTER_REASONS.items()
        },
        "problemCodes": {
            code.value: {"httpStatus": STATUS_OF[code], **_common(entry)}
            for code, entry in PROBLEM_CODES.items()
        },
        "requestCodes": {
            code.value: {"httpStatus": STATUS_OF_REQUEST[code], **_common(entry)}
            for code, entry in REQUEST_CODES.items()
        },
    }


def _common(entry: CodeEntry) -> dict[str, str]:
    means = entry.means[0].upper() + entry.means[1:] + "."
    return {"means": means, "retry": entry.retry.value, "mustAct": entry.acts.value}
