"""Names of classes: one public name means one thing in the whole tree."""

import ast
from collections import defaultdict

from tests.support.source_files import source_files


def test_public_class_has_a_name_of_its_own() -> None:
    places: defaultdict[str, list[str]] = defaultdict(list)
    for file in source_files():
        for node in file.nodes:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places[node.name].append(f"{file.path}:{node.lineno}")

    shared = [f"{name}: {', '.join(found)}" for name, found in sorted(places.items()) if len(found) > 1]
    assert not shared, "\n" + "\n".join(shared)
