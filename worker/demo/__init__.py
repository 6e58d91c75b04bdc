"""``billing-worker demo``: a producer, a worker and a reader of replies, and what a person sees of them."""

from worker.demo.command import demo

__all__ = ["demo"]
