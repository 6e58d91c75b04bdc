"""Recovery after a restore: what the journal keeps goes through the queues again.

The ledger may be restored to an earlier moment, the broker can't be. What was acknowledged in between nobody
delivers again: the journal has it. References make duplicates of what the ledger knows already.
"""
