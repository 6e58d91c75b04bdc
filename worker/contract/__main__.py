"""Writing of the contract's files: ``python -m worker.contract``; with ``--release`` the baseline as well.

The baseline is what the next changes are compared with: of the last release the bundle,
``released/messages.schema.json``, and exchanges and queues, ``released/channels.json``.
"""

import argparse
import json
import sys
from collections.abc import Sequence

from worker.contract.asyncapi import asyncapi
from worker.contract.bundle import bundle
from worker.contract.channels import channels_of
from worker.contract.diff import changes, is_allowed, report
from worker.contract.files import FOLDER, RELEASED, RELEASED_CHANNELS, contents, text_of


def main(arguments: Sequence[str] | None = None) -> int:
    """Write every file that differs, and print the changes since the release; 1 where they break it."""
    parser = argparse.ArgumentParser(prog="python -m worker.contract", description=__doc__)
    parser.add_argument("--release", action="store_true", help="make this contract the baseline")
    is_release = parser.parse_args(arguments).release
    for name, text in contents():
        _write(name, text)
    present = {RELEASED: bundle(), RELEASED_CHANNELS: channels_of(asyncapi())}
    are_allowed = True
    for path, new in present.items():
        old = json.loads(path.read_text(encoding="utf-8"))
        found = changes(old, new)
        are_allowed &= is_allowed(found, old, new)
        sys.stdout.write(f"{path.name} since the last release:\n{report(found, old, new)}")
    if is_release and are_allowed:
        for path, new in present.items():
            _write(str(path.relative_to(FOLDER)), text_of(new))
    return 0 if are_allowed else 1


def _write(path: str, text: str) -> None:
    file = FOLDER / path
    if file.exists() and file.read_text(encoding="utf-8") == text:
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")
    sys.stdout.write(f"{path} has changed\n")


if __name__ == "__main__":
    sys.exit(main())
