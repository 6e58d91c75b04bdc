"""What the tests and the benchmarks share: private servers and how to get them."""
