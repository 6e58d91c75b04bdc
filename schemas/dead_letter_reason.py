"""The reason codes of dead letters."""

from enum import StrEnum


class DeadLetterReason(StrEnum):
    """Stable reasons why a message became a dead letter. Names are never reused or renamed.

    Those of the first group are also the ``reason`` of a reply with the code ``malformed``. A dead letter
    read from the wire may hold another one: an older or newer worker wrote it.
    """

    # -- the message is no command (``Malformed``) ---------------------------------------------------------
    BODY_TOO_LARGE = "body_too_large"  #: more bytes than the contract allows
    BYTE_ORDER_MARK = "byte_order_mark"  #: the body begins with a byte order mark
    NOT_UTF8 = "not_utf8"  #: the body is not UTF-8
    NOT_JSON = "not_json"  #: the body is not JSON
    TOO_DEEP = "too_deep"  #: the body is nested too deeply
    DUPLICATE_FIELD = "duplicate_field"  #: an object gives a field twice
    NOT_AN_OBJECT = "not_an_object"  #: the body is JSON, but no object
    MISSING_FIELD = "missing_field"  #: a required field is absent
    UNKNOWN_FIELD = "unknown_field"  #: the type has no such field
    UNKNOWN_TYPE = "unknown_type"  #: the contract has no such type
    INVALID_FIELD = "invalid_field"  #: a field's value is not allowed
    INVALID_ID = "invalid_id"  #: a new id could pass for another one, or breaks the operator's pattern

    # -- the message must not be applied as it came --------------------------------------------------------
    WRONG_SENDER = "wrong_sender"  #: its sender may not send this type, or this reference
    WRONG_ROUTING_KEY = "wrong_routing_key"  #: the routing key is neither the type nor it with a partition
    WRONG_EXCHANGE = "wrong_exchange"  #: it came by another way than an exchange of commands
    WRONG_LANE = "wrong_lane"  #: the bulk lane takes usage alone
    UNREADABLE_PROPERTIES = "unreadable_properties"  #: its properties or headers can't be parsed
    REFERENCE_CONFLICT = "reference_conflict"  #: its reference names another operation

    # -- the worker failed on it --------------------------------------------------------------------------
    UNPROCESSABLE = "unprocessable"  #: it met a fault of the worker's; the traceback is beside it
    DELIVERY_LIMIT = "delivery_limit"  #: workers crashed on it, or the broker delivered it too often

    # -- the broker did not take or keep it ---------------------------------------------------------------
    NOTICE_REFUSED = "notice_refused"  #: a notice that a listener's full queue refused
    REJECTED = "rejected"  #: ``x-death``: a consumer rejected it
    EXPIRED = "expired"  #: ``x-death``: its time to live ran out
    MAXLEN = "maxlen"  #: ``x-death``: its queue was full
    UNKNOWN = "unknown"  #: it came without a reason
