"""Examples of the contract, ``schemas/contract/examples/``, taken from the samples.

A file a type: the first exchange of each code and notice, with the message, its reply and its notices.
``python -m tests.contracts.examples`` writes them.
"""

import sys
from collections.abc import Iterator
from typing import Any

from tests.contracts.samples import Step, files, steps_of, text_of
from worker.contract.files import FOLDER

EXAMPLES = FOLDER / "examples"
#: Parts of a step that an example has.
SHOWN = ("message", "body", "routingKey", "reply", "notices", "query", "answer")


def examples() -> dict[str, list[Step]]:
    """Return the examples of each command and query by its type, those of ``malformed`` replies apart."""
    found: dict[str, dict[tuple[str, ...], Step]] = {}
    for path in files():
        for step in steps_of(path):
            name, *shown = _shown(step)
            found.setdefault(name, {}).setdefault(tuple(shown), _example(step))
    return {name: list(steps.values()) for name, steps in sorted(found.items())}


def _shown(step: Step) -> list[str]:
    """Return the file of a step, and what it is an example of: code and notices, or problem and fields."""
    if "query" in step:
        problem = step["answer"].get("code", "") if step["answer"]["type"] == "answer.problem" else ""
        return [step["query"]["type"], problem, *step["query"]]
    reply = step["reply"]
    if reply["status"] == "failed":
        return [reply["code"], reply["reason"]]
    notices = [notice["type"] for notice in step.get("notices", ())]
    return [step["message"]["type"], reply["code"], *notices]


def contents() -> Iterator[tuple[str, str]]:
    """Yield name and text of each file."""
    for name, steps in examples().items():
        yield f"{name}.json", text_of(steps)


def _example(step: Step) -> dict[str, Any]:
    return {name: step[name] for name in SHOWN if name in step}


def main() -> None:
    """Write every file that differs, and say which."""
    EXAMPLES.mkdir(parents=True, exist_ok=True)
    for name, text in contents():
        path = EXAMPLES / name
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
            sys.stdout.write(f"examples/{name} has changed\n")


if __name__ == "__main__":
    main()
