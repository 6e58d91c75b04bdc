"""Samples of the contract: messages with the replies and notices of the worker."""
