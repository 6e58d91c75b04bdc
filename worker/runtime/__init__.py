"""Ground floor of every process: stop, back-off, retry, health, identity, supervisor, logging."""
