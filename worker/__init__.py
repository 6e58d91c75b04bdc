"""billing-worker: the message-queue worker that keeps a prepaid token ledger true."""

from importlib.metadata import version

__version__ = version("billing-worker")
