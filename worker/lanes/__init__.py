"""Lanes of one worker: which are paused, and messages that bring workers down."""
