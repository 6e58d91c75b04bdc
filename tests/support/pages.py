"""Reading of the project's pages: sections, tables, links, anchors and commands in Markdown."""

import re
from collections.abc import Iterator

from tests.support.processes import ROOT

Row = list[str]
_HEADING = re.compile(r"^(#+) +(.+?) *$", re.MULTILINE)
_FENCED = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)


def page(path: str) -> str:
    """Return the text of a page; ``path`` begins at the project's root."""
    return (ROOT / path).read_text(encoding="utf-8")


def headings(text: str) -> Iterator[tuple[int, str, int, int]]:
    """Yield level, title, beginning and end of each heading outside of code."""
    hidden = [found.span() for found in _FENCED.finditer(text)]
    for found in _HEADING.finditer(text):
        if not any(begin <= found.start() < end for begin, end in hidden):
            yield len(found[1]), found[2].replace("`", ""), found.start(), found.end()


def section(text: str, title: str) -> str:
    """Return the text under the heading ``title``, up to the next heading of any level."""
    found = list(headings(text))
    (place,) = (place for place, (_, name, _, _) in enumerate(found) if name == title)
    end = found[place + 1][2] if place + 1 < len(found) else len(text)
    return text[found[place][3] : end]


def tables(text: str) -> list[list[Row]]:
    """Return the tables of ``text``: the cells of each row, without the head."""
    found: list[list[Row]] = []
    inside = False
    for line in text.splitlines():
        if not line.startswith("|"):
            inside = False
            continue
        if not inside:
            found.append([])
        inside = True
        found[-1].append([cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]])
    return [rows[2:] for rows in found]


def anchors(text: str) -> set[str]:
    """Return the anchors of the headings, as GitHub makes them."""
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for _, title, _, _ in headings(text)}


def links(text: str) -> list[str]:
    """Return the targets of the links and pictures of ``text``, outside of code."""
    return re.findall(r"\]\(([^)\s]+)\)", _FENCED.sub("", text))


def code_spans(text: str) -> list[str]:
    """Return the inline code of ``text``, without code blocks."""
    return re.findall(r"`([^`]+)`", _FENCED.sub("", text))


def commands(text: str) -> list[str]:
    """Return the ``billing-worker`` commands of ``text``, inline or a line of a code block."""
    inline = [code for code in code_spans(text) if re.match(r"billing-worker [^…]+$", code)]
    lines = re.findall(r"^ *(?:\$ )?(billing-worker .+)$", text, re.MULTILINE)
    return sorted({re.sub(r"\s+", " ", line.split("  #")[0]).strip() for line in inline + lines})
