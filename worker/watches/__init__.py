"""Watches: what one process reads of the servers for its gauges, from time to time and within bounds.

The scheduler's process runs them, so that a number is read once and not by each worker.
"""

from worker.watches.watching import LOOK_EVERY_S, Watch, Watches

__all__ = ["LOOK_EVERY_S", "Watch", "Watches"]
