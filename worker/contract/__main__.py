"""Writing of the contract's files: ``python -m worker.contract``; with ``--release`` the baseline as well.

The baseline is the bundle of the last release, ``released/messages.schema.json``, which the next changes are
compared with.
"""

import argparse
import json
import sys
from collections.abc import Sequence

from worker.contract.bundle import bundle
from worker.contract.diff import changes, is_allowed, report
from worker.contract.files import FOLDER, RELEASED, contents, text_of


def main(arguments: Sequence[str] | None = None) -> int:
    """Write every file that differs, and print the changes since the release; 1 where they break it."""
    parser = argparse.ArgumentParser(prog="python -m worker.contract", description=__doc__)
    parser.add_argument("--release", action="store_true", help="make this contract the baseline")
    for path, text in contents():
        _write(path, text)
    old, new = json.loads(RELEASED.read_text(encoding="utf-8")), bundle()
    found = changes(old, new)
    if parser.parse_args(arguments).release and is_allowed(found, old, new):
        _write(str(RELEASED.relative_to(FOLDER)), text_of(new))
    sys.stdout.write("Since the last release:\n" + report(found, old, new))
    return 0 if is_allowed(found, old, new) else 1


def _write(path: str, text: str) -> None:
    file = FOLDER / path
    if file.exists() and file.read_text(encoding="utf-8") == text:
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")
    sys.stdout.write(f"{path} has changed\n")


if __name__ == "__main__":
    sys.exit(main())
