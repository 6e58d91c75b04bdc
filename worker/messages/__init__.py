"""Messages: receiving deliveries; writing and publishing replies, notices and dead letters."""
