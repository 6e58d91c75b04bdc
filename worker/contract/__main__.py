"""Writing of the contract's files: ``python -m worker.contract``."""

import sys

from worker.contract.files import FOLDER, contents


def main() -> None:
    """Write every file that differs, and say which."""
    for path, text in contents():
        file = FOLDER / path
        if file.exists() and file.read_text(encoding="utf-8") == text:
            continue
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
        sys.stdout.write(f"{path} has changed\n")


if __name__ == "__main__":
    main()
