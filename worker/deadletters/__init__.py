"""Dead letters: made from deliveries, drained into the ledger's database, shown, replayed, discarded."""
