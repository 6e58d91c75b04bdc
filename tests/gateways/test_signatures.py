"""Signatures of webhooks: good ones, every way to be a bad one, and the vendor's own check beside ours."""

import hashlib
import hmac
from collections.abc import Callable

import pytest
import stripe
from hypothesis import given
from hypothesis import strategies as st

from tests.gateways.signing import NOW, OLD_SECRET, SECRET, paddle_header, sign, stripe_header
from worker.gateways.signatures import (
    PADDLE,
    STRIPE,
    TOLERANCE_S,
    SignatureCode,
    SignatureError,
    SignatureScheme,
)

BODY = b'{"id": "evt_1",  "note": "sp\xc3\xa4ces stay"}'

schemes = pytest.mark.parametrize(
    ("scheme", "header_of"), [(STRIPE, stripe_header), (PADDLE, paddle_header)], ids=["stripe", "paddle"]
)
HeaderOf = Callable[..., str]


def refusal(
    scheme: SignatureScheme, header: str | None, body: bytes = BODY, secrets: tuple[str, ...] = (SECRET,)
) -> SignatureCode | None:
    """Return the code of the refusal; None where the signature is good."""
    try:
        scheme.verify(body, header, secrets, now=NOW, tolerance_s=TOLERANCE_S)
    except SignatureError as error:
        return error.code
    return None


@pytest.mark.parametrize("header", ["", "nonsense", stripe_header(b"other"), stripe_header(BODY, at=1)])
def test_refusal_holds_no_secret_and_no_signature(header: str) -> None:
    with pytest.raises(SignatureError) as refused:
        STRIPE.verify(BODY, header, [SECRET], now=NOW, tolerance_s=TOLERANCE_S)
    assert SECRET not in str(refused.value)
    assert sign(SECRET, f"{NOW}.".encode() + BODY) not in str(refused.value)


@schemes
def test_good_signature_is_taken(scheme: SignatureScheme, header_of: HeaderOf) -> None:
    assert refusal(scheme, header_of(BODY)) is None


@schemes
def test_signature_of_any_of_several_secrets_is_taken(scheme: SignatureScheme, header_of: HeaderOf) -> None:
    assert refusal(scheme, header_of(BODY), secrets=(OLD_SECRET, SECRET)) is None
    assert refusal(scheme, header_of(BODY, secrets=(OLD_SECRET,)), secrets=(SECRET, OLD_SECRET)) is None


@schemes
def test_one_of_several_signatures_is_enough(scheme: SignatureScheme, header_of: HeaderOf) -> None:
    assert refusal(scheme, header_of(BODY, secrets=(OLD_SECRET, SECRET))) is None
    assert refusal(scheme, header_of(BODY, secrets=(SECRET, OLD_SECRET))) is None


@schemes
@pytest.mark.parametrize("body", [BODY + b" ", BODY.replace(b"  ", b" "), b"", BODY[:-1]])
def test_tampered_body_is_refused(scheme: SignatureScheme, header_of: HeaderOf, body: bytes) -> None:
    assert refusal(scheme, header_of(BODY), body) is SignatureCode.WRONG


@schemes
def test_signature_of_another_secret_is_refused(scheme: SignatureScheme, header_of: HeaderOf) -> None:
    assert refusal(scheme, header_of(BODY, secrets=(OLD_SECRET,))) is SignatureCode.WRONG


@schemes
def test_time_is_part_of_the_signature(scheme: SignatureScheme, header_of: HeaderOf) -> None:
    old = header_of(BODY, at=NOW - 10_000)
    assert refusal(scheme, old.replace(str(NOW - 10_000), str(NOW))) is SignatureCode.WRONG


@schemes
@pytest.mark.parametrize("apart", [-TOLERANCE_S - 1, TOLERANCE_S + 1])
def test_signature_of_another_time_is_a_replay(
    scheme: SignatureScheme, header_of: HeaderOf, apart: int
) -> None:
    assert refusal(scheme, header_of(BODY, at=NOW + apart)) is SignatureCode.EXPIRED


@pytest.mark.parametrize(("apart", "said"), [(-600, "600 s ago"), (600, "600 s ahead of our clock")])
def test_signature_of_another_time_says_on_which_side_it_is(apart: int, said: str) -> None:
    with pytest.raises(SignatureError, match=f"was made {said}"):
        STRIPE.verify(BODY, stripe_header(BODY, at=NOW + apart), [SECRET], now=NOW, tolerance_s=TOLERANCE_S)


def test_any_of_ten_secrets_is_taken_and_an_eleventh_is_not() -> None:
    """Each secret is compared with each signature: both change, one before the other."""
    secrets = [f"whsec_{number}" for number in range(11)]
    for secret in secrets[:10]:
        STRIPE.verify(
            BODY, stripe_header(BODY, secrets=[secret]), secrets[:10], now=NOW, tolerance_s=TOLERANCE_S
        )
    with pytest.raises(SignatureError, match="no secret makes"):
        STRIPE.verify(
            BODY, stripe_header(BODY, secrets=secrets[10:]), secrets[:10], now=NOW, tolerance_s=TOLERANCE_S
        )


@schemes
@pytest.mark.parametrize("apart", [-TOLERANCE_S, TOLERANCE_S])
def test_signature_within_the_tolerance_is_taken(
    scheme: SignatureScheme, header_of: HeaderOf, apart: int
) -> None:
    assert refusal(scheme, header_of(BODY, at=NOW + apart)) is None


@schemes
@pytest.mark.parametrize("header", [None, "", "  "])
def test_missing_header_is_refused(scheme: SignatureScheme, header_of: HeaderOf, header: str | None) -> None:
    assert refusal(scheme, header) is SignatureCode.MISSING


@schemes
def test_header_that_was_sent_twice_is_refused(scheme: SignatureScheme, header_of: HeaderOf) -> None:
    good = header_of(BODY)
    for joint in (", ", ","):
        assert refusal(scheme, joint.join([good, good])) is SignatureCode.UNREADABLE


@schemes
def test_unreadable_header_is_refused(scheme: SignatureScheme, header_of: HeaderOf) -> None:
    time, separator, signature = header_of(BODY).partition(scheme.separator)
    for header in (
        time,
        signature,
        separator,
        "nonsense",
        f"{scheme.time_key}=soon{separator}{signature}",
        f"{scheme.time_key}={separator}{signature}",
        f"{scheme.time_key}=-5{separator}{signature}",
        f"{scheme.time_key}=١٢{separator}{signature}",
        f"{time}{separator}{scheme.signature_key}=",
        f"{time}{separator}{signature.upper()}",
        f"{time}{separator}{time}{separator}{signature}",
        separator.join([time, *[signature] * 17]),
    ):
        assert refusal(scheme, header) is SignatureCode.UNREADABLE, header


def test_signature_of_another_scheme_is_no_signature() -> None:
    header = f"t={NOW},v0={sign(SECRET, f'{NOW}.'.encode() + BODY)}"
    assert refusal(STRIPE, header) is SignatureCode.UNREADABLE


@given(header=st.text(max_size=80))
def test_any_header_is_refused_with_a_code(header: str) -> None:
    assert refusal(STRIPE, header) is not None
    assert refusal(PADDLE, header) is not None


def test_paddle_signs_the_time_a_colon_and_the_body() -> None:
    expected = hmac.new(SECRET.encode(), f"{NOW}:".encode() + BODY, hashlib.sha256).hexdigest()
    assert refusal(PADDLE, f"ts={NOW};h1={expected}") is None


# -- the vendor's own check -------------------------------------------------------------------------------


def vendor_takes(body: bytes, header: str) -> bool:
    """Return the judgement of Stripe's library, without its tolerance: it reads the clock itself."""
    try:
        stripe.WebhookSignature.verify_header(body.decode(), header, SECRET, None)
    except stripe.SignatureVerificationError:
        return False
    return True


@pytest.mark.parametrize(
    ("body", "header"),
    [
        (BODY, stripe_header(BODY)),
        (BODY, stripe_header(BODY, secrets=(OLD_SECRET, SECRET))),
        (BODY, stripe_header(BODY, secrets=(SECRET, OLD_SECRET))),
        (BODY, stripe_header(BODY) + ",v0=" + "0" * 64),
        (BODY, stripe_header(BODY, secrets=(OLD_SECRET,))),
        (BODY + b" ", stripe_header(BODY)),
        (b"", stripe_header(b"")),
        (BODY, ""),
        (BODY, "t=1"),
        (BODY, "nonsense"),
        (BODY, stripe_header(BODY).replace("v1", "v2")),
    ],
)
def test_vendors_library_judges_alike(body: bytes, header: str) -> None:
    assert vendor_takes(body, header) is (refusal(STRIPE, header, body) is None)


@given(body=st.text(max_size=200))
def test_vendors_library_judges_any_body_alike(body: str) -> None:
    raw = body.encode("utf-8", "replace")
    assert vendor_takes(raw, stripe_header(raw))
    assert refusal(STRIPE, stripe_header(raw), raw) is None
