"""Versions side by side, and schemas that change under them."""
