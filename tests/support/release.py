"""Release of the version in ``worker/__init__.py``: its wheel, kept for the test of the next one, and a tag.

Run by ``make release`` on a clean tree. Two builds of one commit are the same file.
"""

import shutil
import subprocess
import sys
import tarfile
import tempfile
from io import BytesIO
from pathlib import Path

from tests.support.forked_python import ROOT

WHEELS = ROOT / "tests" / "upgrade"


def wheel_before() -> Path:
    """Return the wheel of the version before; there is one."""
    (wheel,) = WHEELS.glob("billing_worker-*.whl")
    return wheel


def build(reference: str, folder: Path) -> Path:
    """Build the wheel of a commit into ``folder``; what is not committed is not in it."""
    archive = subprocess.run(["git", "archive", reference], cwd=ROOT, check=True, capture_output=True).stdout
    with tempfile.TemporaryDirectory() as tree:
        with tarfile.open(fileobj=BytesIO(archive)) as files:
            files.extractall(tree, filter="data")
        command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), tree]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    (wheel,) = folder.glob("*.whl")
    return wheel


def release(reference: str = "HEAD") -> Path:
    """Replace the kept wheel by that of a commit; tag the commit."""
    with tempfile.TemporaryDirectory() as folder:
        built = build(reference, Path(folder))
        version = built.name.split("-")[1]
        subprocess.run(["git", "tag", f"v{version}", reference], cwd=ROOT, check=True)
        for old in WHEELS.glob("billing_worker-*.whl"):
            old.unlink()
        return Path(shutil.copy(built, WHEELS))


if __name__ == "__main__":
    kept = release(*sys.argv[1:])
    print(  # noqa: T201
        f"kept {kept.name} for the test of the next version: commit it with the next number, push the tag"
    )
