"""Survey of charges to reverse, for people and for scripts."""

from collections.abc import Mapping
from typing import Any

from worker.cli.output import show_fields, show_table
from worker.cli.table_width import Column
from worker.cli.times import moment
from worker.reversing.survey import RefusedCharge, Survey, SurveyedCharge, SurveySums, largest_first

_SHOWN = 10


def show_survey(found: Survey) -> None:
    """Show counts and sums, the groups with the most tokens, a sample, and what can't be reversed."""
    sums, total = found.sums, len(found.keys)
    fields = [
        ("operations that match", found.matched),
        ("charges among them", found.charges),
        ("can be reversed", total),
        ("of these the rest", found.partly or None),
        ("given back before", found.given_back),
        ("can't be reversed", found.refused_in_all),
        ("tokens to go back", sums.tokens),
        ("free units to go back", sums.free_quantity or None),
    ]
    show_fields("Dry run", [(name, value) for name, value in fields if value is not None])
    for by, groups in (("user", found.by_user), ("feature", found.by_feature), ("sender", found.by_sender)):
        _show_groups(by, groups)
    if found.samples:
        show_table(
            f"A sample of {total:,} charges" if total > len(found.samples) else "Charges",
            ("reference", "user", Column("type", 3), Column("feature", 2), "tokens", Column("recorded", 1)),
            [_sample_row(one) for one in found.samples],
        )
    if found.refusals:
        show_table(
            "Can't be reversed",
            ("reference", "code", Column("cause", 1, text=True)),
            [(one.reference_id, one.code, one.text) for one in found.refusals[:_SHOWN]],
        )


def _show_groups(by: str, groups: Mapping[str, SurveySums]) -> None:
    most = largest_first(groups)[:_SHOWN]
    if not most:
        return
    has_free = any(sums.free_quantity for _, sums in most)
    more = f", {_SHOWN} of {len(groups):,}" if len(groups) > _SHOWN else ""
    show_table(
        f"By {by}{more}",
        (by, "charges", "tokens", *(("free units",) if has_free else ())),
        [
            (name, sums.charges, sums.tokens, *((sums.free_quantity,) if has_free else ()))
            for name, sums in most
        ],
    )


def _sample_row(one: SurveyedCharge) -> tuple[Any, ...]:
    usage = one.charge.usage
    return (
        usage.reference_id,
        usage.user_id,
        usage.type,
        one.charge.feature,
        one.tokens,
        moment(usage.recorded_at),
    )


def survey_as_dict(found: Survey) -> dict[str, Any]:
    """Return a survey for scripts; of groups all, of charges a sample."""
    return {
        "matched": found.matched,
        "operations": [
            {"type": type_, "status": status, "count": count}
            for (type_, status), count in sorted(found.kinds.items())
        ],
        "charges": found.charges,
        "judged": found.judged,
        "reversible": len(found.keys),
        "partly": found.partly,
        "givenBack": found.given_back,
        "refused": dict(found.refused),
        "tokens": found.sums.tokens,
        "freeQuantity": found.sums.free_quantity,
        "byUser": _groups_as_list(found.by_user),
        "byFeature": _groups_as_list(found.by_feature),
        "bySender": _groups_as_list(found.by_sender),
        "sample": [_sample_as_dict(one) for one in found.samples],
        "refusals": [_refusal_as_dict(one) for one in found.refusals],
    }


def _groups_as_list(groups: Mapping[str, SurveySums]) -> list[dict[str, Any]]:
    return [
        {
            "name": name,
            "charges": sums.charges,
            "tokens": sums.tokens,
            "freeQuantity": sums.free_quantity,
        }
        for name, sums in largest_first(groups)
    ]


def _sample_as_dict(one: SurveyedCharge) -> dict[str, Any]:
    usage = one.charge.usage
    return {
        "referenceId": usage.reference_id,
        "userId": usage.user_id,
        "type": usage.type,
        "feature": one.charge.feature,
        "sender": one.sender,
        "tokens": one.tokens,
        "freeQuantity": one.free_quantity,
    }


def _refusal_as_dict(one: RefusedCharge) -> dict[str, Any]:
    return {"referenceId": one.reference_id, "code": one.code, "message": one.text}
