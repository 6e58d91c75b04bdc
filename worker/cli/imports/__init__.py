"""``import``: accounts of another system, from CSV files through the queue into the ledger."""
