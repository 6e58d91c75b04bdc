"""billing-worker: the message-queue worker that keeps a prepaid token ledger true."""

__version__ = "0.4.0"
