"""``python -m tests.contracts``: writes the replies and notices of the samples anew."""

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.contracts.conversations import files, spoken, steps_of, written
from worker.ledger.engine import ledger_engine
from worker.ledger.migrations import migrate


def main() -> None:
    """Speak every conversation with a new ledger and keep what was answered."""
    for path in files():
        with TemporaryDirectory() as folder:
            engine = ledger_engine(f"sqlite:///{Path(folder) / 'ledger.sqlite3'}")
            migrate(engine)
            text = written(list(spoken(steps_of(path), engine)))
            engine.dispose()
        if text != path.read_text(encoding="utf-8"):
            path.write_text(text, encoding="utf-8")
            sys.stdout.write(f"{path.name} has changed\n")


if __name__ == "__main__":
    main()
