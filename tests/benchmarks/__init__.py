"""Benchmarks: claims with their conditions. ``make bench`` runs them."""
