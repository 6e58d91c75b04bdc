"""Shared parts of the tests and the benchmarks: private servers and how to get them."""
