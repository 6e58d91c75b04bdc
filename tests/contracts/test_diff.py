"""Classification of changes: each rule by one change of today's bundle."""

import json
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from worker.contract.bundle import bundle
from worker.contract.consequences import Consequence
from worker.contract.diff import changes, is_allowed, main
from worker.contract.files import RELEASED
from worker.contract.rules import given

Bundle = dict[str, Any]
Edit = Callable[[Bundle], None]

COMPATIBLE, WORKER_FIRST, ANNOUNCED, BREAKING = Consequence
LABEL: Bundle = {"type": "string", "maxLength": 64}
OPTIONAL: Bundle = {"anyOf": [LABEL, {"type": "null"}]}


# -- edits of a bundle ------------------------------------------------------------------------------------


def put(name: str, field: str, schema: Bundle, *, required: bool = False) -> Edit:
    """Return the edit that adds a field to a definition."""

    def edit(one: Bundle) -> None:
        one["$defs"][name]["properties"][field] = schema
        one["$defs"][name]["required"] += [field] * required

    return edit


def drop(name: str, field: str) -> Edit:
    """Return the edit that takes a field out of a definition."""

    def edit(one: Bundle) -> None:
        definition = one["$defs"][name]
        del definition["properties"][field]
        definition["required"] = [other for other in definition["required"] if other != field]

    return edit


def require(name: str, field: str) -> Edit:
    return lambda one: one["$defs"][name]["required"].append(field)


def allow_absence(name: str, field: str) -> Edit:
    return lambda one: one["$defs"][name]["required"].remove(field)


def change(name: str, field: str | None = None, **keywords: Any) -> Edit:
    """Return the edit that sets keywords of a definition, or of one of its fields; None takes one out."""

    def edit(one: Bundle) -> None:
        schema = one["$defs"][name] if field is None else one["$defs"][name]["properties"][field]
        for keyword, value in keywords.items():
            if value is None:
                del schema[keyword]
            else:
                schema[keyword] = value

    return edit


def with_code(name: str, code: str) -> Edit:
    return lambda one: one["$defs"][name]["enum"].append(code)


def without_code(name: str, code: str) -> Edit:
    return lambda one: one["$defs"][name]["enum"].remove(code)


def copy_message(kind: str, name: str, type_: str) -> Edit:
    """Return the edit that adds a message of a kind, like the one of definition ``name``."""

    def edit(one: Bundle) -> None:
        copied = one["$defs"]["Copied"] = deepcopy(one["$defs"][name])
        copied["properties"]["type"] = {"type": "string", "const": type_}
        one["$defs"][kind]["oneOf"].append({"$ref": "#/$defs/Copied"})

    return edit


def one_of_two(name: str, field: str, other: str) -> Edit:
    """Return the edit that adds a field which may stand in the place of a required one."""
    choices = [{**given(field), "allOf": [absent(other)]}, {**given(other), "allOf": [absent(field)]}]

    def edit(one: Bundle) -> None:
        properties = one["$defs"][name]["properties"]
        properties[field] = {"anyOf": [properties[field], {"type": "null"}]}
        for step in (allow_absence(name, field), put(name, other, OPTIONAL), change(name, oneOf=choices)):
            step(one)

    return edit


def absent(field: str) -> Bundle:
    return {"properties": {field: {"type": "null"}}}


NEW_MESSAGES = [
    ("Command", "ReleaseUsage", "usage.copied", WORKER_FIRST),
    ("Query", "QueryStats", "query.copied", WORKER_FIRST),
    ("Answer", "StatsAnswer", "answer.copied", COMPATIBLE),
    ("Notice", "BalanceLow", "balance.copied", COMPATIBLE),
]

#: Changes of what the worker takes.
TAKEN = [
    ("optional field is new", put("DeductUsage", "project", OPTIONAL), "usage.deduct.project", WORKER_FIRST),
    (
        "required field is new",
        put("DeductUsage", "project", LABEL, required=True),
        "usage.deduct.project",
        BREAKING,
    ),
    ("optional field is gone", drop("DeductUsage", "feature"), "usage.deduct.feature", BREAKING),
    ("required field is gone", drop("DeductUsage", "tokens"), "usage.deduct.tokens", BREAKING),
    ("field becomes required", require("DeductUsage", "feature"), "usage.deduct.feature", BREAKING),
    ("field becomes optional", allow_absence("DeductUsage", "tokens"), "usage.deduct.tokens", WORKER_FIRST),
    ("minimum rises", change("DeductUsage", "tokens", minimum=1), "usage.deduct.tokens", BREAKING),
    ("minimum falls", change("DeductUsage", "tokens", minimum=-1), "usage.deduct.tokens", WORKER_FIRST),
    ("maximum falls", change("DeductUsage", "attempt", maximum=9), "usage.deduct.attempt", BREAKING),
    ("maximum is gone", change("DeductUsage", "attempt", maximum=None), "usage.deduct.attempt", WORKER_FIRST),
    ("type is another", change("DeductUsage", "tokens", type="string"), "usage.deduct.tokens", BREAKING),
    (
        "default is another",
        change("SettleUsage", "onExcess", default="take"),
        "usage.settle.onExcess",
        BREAKING,
    ),
    (
        "choice is new",
        change("SettleUsage", "onExcess", enum=["refuse", "take", "ask"]),
        "usage.settle.onExcess",
        WORKER_FIRST,
    ),
    ("choice is gone", change("SettleUsage", "onExcess", enum=["refuse"]), "usage.settle.onExcess", BREAKING),
    (
        "null is refused",
        change("DeductUsage", "feature", anyOf=[{"$ref": "#/$defs/Label"}]),
        "usage.deduct.feature",
        BREAKING,
    ),
    (
        "number is taken as well",
        change(
            "DeductUsage", "feature", anyOf=[{"$ref": "#/$defs/Label"}, {"type": "null"}, {"type": "integer"}]
        ),
        "usage.deduct.feature",
        WORKER_FIRST,
    ),
    (
        "pattern is another",
        change("Currency", pattern="^[A-Z]{3,4}$"),
        "payment.succeeded.currency",
        BREAKING,
    ),
    ("metadata takes fewer keys", change("Metadata", maxProperties=8), "usage.deduct.metadata", BREAKING),
    ("labels may be longer", change("Label", maxLength=100), "usage.deduct.metadata[]", WORKER_FIRST),
    ("rule is new", change("DeductUsage", anyOf=[{"required": ["feature"]}]), "usage.deduct", BREAKING),
    (
        "required field is one of two now",
        one_of_two("DeductUsage", "tokens", "total"),
        "usage.deduct.tokens",
        WORKER_FIRST,
    ),
    ("rule is gone", change("PaymentSucceeded", oneOf=None), "payment.succeeded", WORKER_FIRST),
    ("batch takes fewer items", change("UsageBatch", "items", maxItems=9), "usage.batch.items", BREAKING),
    (
        "field of an item is new",
        put("DeductUsageItem", "project", OPTIONAL),
        "usage.batch.items[].project",
        WORKER_FIRST,
    ),
    ("field of a query is new", put("QueryStats", "at", OPTIONAL), "query.stats.at", WORKER_FIRST),
]

#: Changes of what the worker sends.
SENT = [
    ("field of the reply is new", put("Reply", "lender", LABEL), "reply.lender", COMPATIBLE),
    ("required field is new", put("Reply", "lender", LABEL, required=True), "reply.lender", COMPATIBLE),
    ("field of the reply is gone", drop("Reply", "debt"), "reply.debt", BREAKING),
    ("field may be absent", allow_absence("Reply", "message"), "reply.message", BREAKING),
    ("field is always there", require("Reply", "type"), "reply.type", COMPATIBLE),
    ("status is new", with_code("Status", "postponed"), "reply.status", BREAKING),
    ("code is new", with_code("Code", "lent"), "Code.lent", COMPATIBLE),
    ("code is gone", without_code("Code", "hold_closed"), "Code.hold_closed", BREAKING),
    ("reason is gone", without_code("DeadLetterReason", "maxlen"), "DeadLetterReason.maxlen", BREAKING),
    ("type is another", change("Reply", "amount", type="string"), "reply.amount", BREAKING),
    ("fraction is sent", change("Reply", "amount", type="number"), "reply.amount", BREAKING),
    ("field of an answer is new", put("BalanceAnswer", "region", LABEL), "answer.balance.region", COMPATIBLE),
    ("field of a part is gone", drop("Totals", "used"), "answer.balance.totals.used", BREAKING),
]

RULES = [pytest.param(*rule[1:], id=rule[0]) for rule in (*TAKEN, *SENT)]


@pytest.mark.parametrize(("edit", "place", "consequence"), RULES)
def test_change_has_its_consequence(edit: Edit, place: str, consequence: Consequence) -> None:
    old, new = bundle(), deepcopy(bundle())
    edit(new)
    found = changes(old, new)
    assert (place, consequence) in {(one.place, one.consequence) for one in found}
    assert {one.consequence for one in found} == {consequence}, [str(one) for one in found]
    assert is_allowed(found, old, new) is (consequence is not BREAKING)


#: Rules between fields, and whether every usage.deduct of today keeps them: `tokens` is required, `feature`
#: optional, `total` not known.
KEPT = [
    ("a required field is given", {"allOf": [given("tokens")]}, True),
    ("an unknown field is absent", {"allOf": [absent("total")]}, True),
    ("one of two, and the other was not known", {"oneOf": [given("tokens"), given("total")]}, True),
    ("one of three, and two were not known", {"oneOf": [given("tokens"), given("a"), given("b")]}, True),
    ("any of two, and one is always given", {"anyOf": [given("feature"), given("tokens")]}, True),
    ("one of two that were given", {"oneOf": [given("tokens"), given("userId")]}, False),
    ("one of two, and the other may be given", {"oneOf": [given("tokens"), given("feature")]}, False),
    ("one of two that were not known", {"oneOf": [given("a"), given("b")]}, False),
    ("an optional field is given", {"allOf": [given("feature")]}, False),
    ("an optional field is absent", {"anyOf": [absent("feature")]}, False),
    ("a required field is absent", {"anyOf": [absent("tokens")]}, False),
    ("a bound of a value", {"allOf": [{"properties": {"tokens": {"minimum": 0}}}]}, False),
    ("a rule of another kind", {"not": {"required": ["total"]}}, False),
]


@pytest.mark.parametrize(("rule", "is_kept"), [pytest.param(*one[1:], id=one[0]) for one in KEPT])
def test_rule_breaks_nothing_where_every_old_message_keeps_it(rule: Bundle, is_kept: bool) -> None:
    new = deepcopy(bundle())
    change("DeductUsage", **rule)(new)
    found = [one.consequence for one in changes(bundle(), new)]
    assert found == ([] if is_kept else [BREAKING])


def test_rule_about_a_field_that_may_be_null_is_a_limit() -> None:
    old = deepcopy(bundle())
    require("DeductUsage", "feature")(old)  # given, and perhaps as null
    new = deepcopy(old)
    change("DeductUsage", allOf=[given("feature")])(new)
    assert [one.consequence for one in changes(old, new)] == [BREAKING]


@pytest.mark.parametrize(("kind", "name", "type_", "consequence"), NEW_MESSAGES)
def test_message_may_come_and_must_not_go(kind: str, name: str, type_: str, consequence: Consequence) -> None:
    old, new = bundle(), deepcopy(bundle())
    copy_message(kind, name, type_)(new)
    (come,), (gone,) = changes(old, new), changes(new, old)
    assert (come.place, come.consequence) == (type_, consequence)
    assert (gone.place, gone.consequence) == (type_, BREAKING)


def test_description_is_no_change() -> None:
    old, new = bundle(), deepcopy(bundle())
    new["$defs"]["Reply"]["description"] = "Something else."
    assert changes(old, new) == []


def test_name_of_a_definition_is_no_change() -> None:
    new = json.loads(json.dumps(bundle()).replace("DeductUsage", "TakeTokens").replace("Identifier", "Name"))
    assert changes(bundle(), new) == []


def test_breaking_change_needs_a_new_major_version(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old, new = bundle(), deepcopy(bundle())
    drop("DeductUsage", "feature")(new)
    before, after = tmp_path / "old.json", tmp_path / "new.json"
    before.write_text(json.dumps(old))
    after.write_text(json.dumps(new))
    assert main([str(before), str(after)]) == 1
    assert "breaking: usage.deduct.feature: the field is gone" in capsys.readouterr().out
    new["$id"] = new["$id"].replace(":2:", ":3:")
    after.write_text(json.dumps(new))
    assert main([str(before), str(after)]) == 0


@pytest.mark.parametrize("text", ["", "{}", '{"$id": "urn:other"}', "[]"])
def test_other_file_is_refused(text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "other.json"
    path.write_text(text)
    with pytest.raises(SystemExit) as refused:
        main([str(path), str(path)])
    assert refused.value.code == 2
    assert "no two bundles of this contract" in capsys.readouterr().err


def test_contract_breaks_nothing_since_the_last_release() -> None:
    old = json.loads(RELEASED.read_text(encoding="utf-8"))
    found = changes(old, bundle())
    assert is_allowed(found, old, bundle()), [str(one) for one in found if one.consequence is BREAKING]


def test_rule_of_new_ids_is_announced_and_breaks_no_version() -> None:
    new = bundle()
    old = json.loads(json.dumps(new))
    old["$defs"]["Identifier"]["pattern"] = old["$defs"]["StoredIdentifier"]["pattern"]
    found = changes(old, new)
    assert {change.consequence for change in found} == {ANNOUNCED}
    assert is_allowed(found, old, new)
    assert not is_allowed(changes(new, old), new, old), "only this way round"
