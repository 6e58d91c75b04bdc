"""Examples of the contract: valid for validators in Python and in Node, and one of every message."""

from functools import cache
from typing import Any

from jsonschema import Draft202012Validator, FormatChecker

from tests.contracts.examples import EXAMPLES, contents, examples
from tests.contracts.samples import Step
from tests.support.node import ask_script
from worker.contract.bundle import KINDS, bundle

Check = tuple[str, Any]
DEFINITIONS = {type_: name for kind in KINDS for type_, name in kind.definitions.items()}


def asked_and_answered(step: Step) -> list[str]:
    """Return the parts of a query's example that are valid: a query that is refused need not be."""
    return ["answer"] if step["answer"].get("code") == "malformed" else ["query", "answer"]


@cache
def checks() -> list[Check]:
    """Return every message of the examples with the definition that it must fit."""
    found: list[Check] = []
    for name, steps in examples().items():
        for step in steps:
            if "query" in step:
                found += [(DEFINITIONS[step[part]["type"]], step[part]) for part in asked_and_answered(step)]
                continue
            if name != "malformed":
                found.append((DEFINITIONS[step["message"]["type"]], step["message"]))
            found.append(("Reply", step["reply"]))
            found += [(DEFINITIONS[notice["type"]], notice) for notice in step.get("notices", ())]
    return found


def test_files_are_those_of_the_samples() -> None:
    written = {path.name: path.read_text(encoding="utf-8") for path in EXAMPLES.glob("*")}
    assert written == dict(contents()), "run `make contract`"


def test_every_message_has_an_example() -> None:
    assert {name for name, _ in checks()} == set(DEFINITIONS.values())


def test_example_is_valid_in_python() -> None:
    schema = bundle()
    for name, value in checks():
        validator = Draft202012Validator(
            {"$ref": f"#/$defs/{name}", "$defs": schema["$defs"]}, format_checker=FormatChecker()
        )
        assert list(validator.iter_errors(value)) == [], (name, value)


def test_example_is_valid_in_node() -> None:
    given = [[f"#/$defs/{name}", value] for name, value in checks()]
    found = ask_script("validate.mjs", {"schema": bundle(), "formats": True, "checks": given})
    assert [one for one in zip(given, found, strict=True) if one[1] is not None] == []


def test_reply_of_a_later_version_is_valid() -> None:
    (first, *_) = examples()["usage.deduct"]
    later = {**first["reply"], "code": "tokens_borrowed", "schemaVersion": 3, "lender": {"name": "bank"}}
    given = [["#/$defs/Reply", later], ["#/$defs/Reply", {**later, "status": "postponed"}]]
    taken, closed = ask_script("validate.mjs", {"schema": bundle(), "formats": True, "checks": given})
    assert taken is None
    assert closed is not None, "the status is one of three for a major version"
