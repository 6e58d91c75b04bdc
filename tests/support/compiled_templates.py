"""Cache of compiled templates that all consoles of a test process share.

Each test has a console of its own, which would compile the same templates again. What is compiled is kept
with a hash of its source, so that a changed template is compiled anew.
"""

import pytest
from flask import Flask
from jinja2 import BytecodeCache
from jinja2.bccache import Bucket


class SharedTemplates(BytecodeCache):
    """Compiled templates in memory, by the hash of their name."""

    def __init__(self) -> None:
        self._kept: dict[str, bytes] = {}

    def load_bytecode(self, bucket: Bucket) -> None:
        """Give the bucket what was compiled of the template, if its source is still the same."""
        if bucket.key in self._kept:
            bucket.bytecode_from_string(self._kept[bucket.key])

    def dump_bytecode(self, bucket: Bucket) -> None:
        """Keep what was compiled."""
        self._kept[bucket.key] = bucket.bytecode_to_string()


def share_compiled_templates(patch: pytest.MonkeyPatch) -> None:
    """Let applications that are made from now on share their compiled templates."""
    patch.setattr(Flask, "jinja_options", {**Flask.jinja_options, "bytecode_cache": SharedTemplates()})
