"""Replays: which dead letters are sent again, how, and with which result."""
