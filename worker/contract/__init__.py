"""The contract as files: JSON Schema, AsyncAPI, OpenAPI and codes, written from the models and the topology.

``python -m worker.contract`` writes ``schemas/contract/``; ``python -m worker.contract.diff`` compares two of
them. Nothing that runs imports this package.
"""
