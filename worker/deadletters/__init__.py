"""Dead letters: made from deliveries, parked in the ledger's database, looked at, replayed, discarded."""
