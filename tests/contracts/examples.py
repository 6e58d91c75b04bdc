"""Examples of the contract, ``schemas/contract/examples/``, taken from the samples.

A file a type: the first exchange of each code and each kind of notice, with
the message, its reply and its notices.
``python -m tests.contracts.examples`` writes them.
"""

import sys
from collections.abc import Iterator
from typing import Any

from tests.contracts.samples import Step, files, steps_of, text_of
from worker.contract.files import FOLDER

EXAMPLES = FOLDER / "examples"


def examples() -> dict[str, list[Step]]:
    """Return the examples of each command by its type, those of ``malformed`` replies apart."""
    found: dict[str, dict[str, Step]] = {}
    for step in _steps():
        reply = step["reply"]
        is_command = reply["status"] != "failed"
        name, code = (
            (step["message"]["type"], reply["code"]) if is_command else ("malformed", reply["reason"])
        )
        found.setdefault(name, {}).setdefault(code, _example(step))
    return {name: list(by_code.values()) for name, by_code in sorted(found.items())}


def contents() -> Iterator[tuple[str, str]]:
    """Yield name and text of each file."""
    for name, steps in examples().items():
        yield f"{name}.json", text_of(steps)


def _steps() -> Iterator[Step]:
    for path in files():
        yield from steps_of(path)


def _example(step: Step) -> dict[str, Any]:
    return {
        name: step[name] for name in ("message", "body", "routingKey", "reply", "notices") if name in step
    }


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
