"""References of refunds: the same for the same state of a charge, and taken by every rule of ids."""

import pytest

from schemas import RefundCredit
from schemas.fields import IDENTIFIER_MAX
from schemas.identifiers import ID_RULE
from worker.reversing.refunds import reference_of


def test_reference_names_the_charge_and_the_refunds_before() -> None:
    assert reference_of("job-17", 0) == "reverse:0:job-17"
    assert reference_of("job-17", 3) == "reverse:3:job-17"


@pytest.mark.parametrize(
    "charge",
    [
        "j" * (IDENTIFIER_MAX - len("reverse:0:")),
        "j" * IDENTIFIER_MAX,
        "größe",
        "gro\u0308ße",  # older than the rule: not in the form NFC
        "a\u3000b",  # older than the rule: a wide space
        "😀" * IDENTIFIER_MAX,
        "with a space",
    ],
)
def test_reference_of_any_charge_keeps_the_rule_of_new_ids(charge: str) -> None:
    reference = reference_of(charge, 0)
    assert len(reference) <= IDENTIFIER_MAX
    assert ID_RULE.fault(reference) is None
    assert reference == reference_of(charge, 0) != reference_of(charge, 1)
    assert RefundCredit(reference_id=reference, user_id="u", tokens=1).reference_id == reference


def test_digests_are_of_no_other_charges_name() -> None:
    digest = reference_of("j" * IDENTIFIER_MAX, 0)
    assert digest.startswith("reverse-sha256:0:")
    assert reference_of(digest.removeprefix("reverse-sha256:0:"), 0) != digest
