"""Tests of dead letters: made, drained, kept and replayed."""
