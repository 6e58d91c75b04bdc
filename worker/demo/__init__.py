"""``billing-worker demo``: a producer, a worker and a collector of replies, and a summary for people."""

from worker.demo.command import demo

__all__ = ["demo"]
