"""``python -m tests.contracts``: regenerate the replies and notices of the samples."""

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.contracts.samples import files, steps_of, text_of, with_replies
from worker.ledger.engine import ledger_engine
from worker.ledger.migrations import migrate


def main() -> None:
    """Run every sample on a new ledger, and store the replies."""
    for path in files():
        with TemporaryDirectory() as folder:
            engine = ledger_engine(f"sqlite:///{Path(folder) / 'ledger.sqlite3'}")
            migrate(engine)
            text = text_of(list(with_replies(steps_of(path), engine)))
            engine.dispose()
        if text != path.read_text(encoding="utf-8"):
            path.write_text(text, encoding="utf-8")
            sys.stdout.write(f"{path.name} has changed\n")


if __name__ == "__main__":
    main()
