"""Benchmarks and their conditions; ``make bench`` runs them."""
