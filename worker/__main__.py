"""``python -m worker``: the same as ``billing-worker``."""

from worker.cli import main

main()
