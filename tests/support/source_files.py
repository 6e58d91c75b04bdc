"""Python files of the repository, each parsed once."""

import ast
import gc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDERS = ("worker", "schemas", "tests")


#: Nodes that have a docstring or give a name.
_NAMING = (
    ast.Module,
    ast.ClassDef,
    ast.FunctionDef,
    ast.AsyncFunctionDef,
    ast.arg,
    ast.Name,
    ast.Attribute,
    ast.alias,
)


@dataclass(frozen=True)
class SourceFile:
    """One file: its path in the repository, its lines, and the nodes with docstrings or names."""

    path: str
    lines: tuple[str, ...]
    nodes: tuple[ast.AST, ...]

    @classmethod
    def parse(cls, path: str, text: str) -> "SourceFile":
        """Parse ``text``, the content of ``path``."""
        nodes = (node for node in ast.walk(ast.parse(text)) if isinstance(node, _NAMING))
        return cls(path, tuple(text.splitlines()), tuple(nodes))

    def line(self, number: int) -> str:
        """Return a line by its number, from 1; empty outside the file."""
        return self.lines[number - 1] if 0 < number <= len(self.lines) else ""


@cache
def source_files() -> tuple[SourceFile, ...]:
    """Return the Python files of the worker, the schemas and the tests."""
    with _no_garbage_collection():
        return tuple(
            SourceFile.parse(str(path.relative_to(ROOT)), path.read_text("utf-8")) for path in _paths()
        )


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Pause the collector: it would walk the growing trees again and again, four times the work."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _paths() -> Iterator[Path]:
    for folder in FOLDERS:
        yield from files_below(ROOT / folder, ".py")


def files_below(folder: Path, suffix: str) -> Iterator[Path]:
    """Yield the files of a folder in order, without the packages of Node, which are of others."""
    for path in sorted(folder.iterdir()):
        if path.is_dir():
            if path.name != "node_modules":
                yield from files_below(path, suffix)
        elif path.suffix == suffix:
            yield path
