"""Queries: questions to the ledger and their answers, many at once, for every door."""

from worker.queries.service import QueryService

__all__ = ["QueryService"]
