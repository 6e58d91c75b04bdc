"""Reversing: a set of charges, frozen, is refunded through the queue, and the ledger shows the results.

A charge is applied usage. What is left of it after earlier refunds goes back as one ``credit.refund``, to the
lots it came from. Payments that go back are another thing: ``worker.core.reversals``.
"""
