"""Dead letters in the database: their tables, and everything that reads or changes them."""
