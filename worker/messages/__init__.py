"""Messages: from a delivery to a command, and from an outcome to what is sent."""
