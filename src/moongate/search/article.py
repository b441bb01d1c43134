"""The text of a web page that a reader came for: no scripts, no menus, nothing that is hidden.

The process that reads documents runs this file by its path (see ``media.reader``), because a page
can be made so that its tree takes minutes. It knows nothing of the rest.
"""

import re
from collections.abc import Iterator
from typing import Any, Final

from selectolax.lexbor import LexborHTMLParser

CHARS_MAX: Final = 16_000
_HIDDEN: Final = (
    "script, style, noscript, template, svg, math, canvas, iframe, object, nav, header, footer, "
    "aside, form, button, select, dialog, [hidden], [aria-hidden=true], "
    "[style*='display:none'], [style*='display: none'], [style*='visibility:hidden'], "
    "[style*='visibility: hidden'], [style*='font-size:0'], [style*='opacity:0']"
)
_BODIES: Final = "article, main, [role=main]"
_BLOCKS: Final = re.compile(r"h[1-4]|p|li|pre|blockquote|d[dt]|td|figcaption")
_ARTICLE_CHARS_MIN: Final = 200
_LINKS_SHARE: Final = 0.6
"""A block of which so much is links is a menu."""


class _Article:
    """The lines of a page's text, or of a part of it: a block each, without those that are menus.

    Words go to the innermost block that they stand in, once.
    """

    def __init__(self) -> None:
        self.lines: dict[str, None] = {}
        self.loose: list[str] = []
        self.size = 0
        self._blocks = self._links = self._linked = 0
        self._said: list[str] = []

    def turn(self, tag: str, step: int) -> None:
        """An element begins (1) or ends (-1)."""
        if tag == "a":
            self._links += step
        elif _BLOCKS.fullmatch(tag):
            self._blocks += step
            text = " ".join("".join(self._said).split())
            if text and self._linked <= _LINKS_SHARE * len(text):
                self.lines[text] = None
            self._said.clear()
            self._linked = 0

    def say(self, text: str) -> None:
        """Words between two elements."""
        plain = " ".join(text.split())
        self.size += len(text)
        if plain:
            self.loose.append(plain)
        if self._blocks:
            self._said.append(text)
            self._linked += len(plain) if self._links else 0


def _walk(top: Any, hidden: set[int]) -> Iterator[tuple[Any, int]]:
    """Every node below ``top`` as it begins (1) and ends (-1), however deep it stands."""
    node = top.child
    while node is not None:
        if node.mem_id not in hidden:
            yield node, 1
            if node.child is not None:
                node = node.child
                continue
            yield node, -1
        while node.next is None:
            node = node.parent
            if node is None or node.mem_id == top.mem_id:
                return
            yield node, -1
        node = node.next


def read(data: bytes) -> Iterator[str]:
    """The text of an HTML page that a reader came for, in UTF-8, a block a line.

    One walk, which meets every node twice; making the tree may take longer, and is bound with all
    else.
    """
    tree = LexborHTMLParser(data.decode("utf-8"))
    if tree.body is None:
        return
    hidden, bodies = ({one.mem_id for one in tree.css(of)} for of in (_HIDDEN, _BODIES))
    parts, found, inside = [_Article()], [], 0
    for node, step in _walk(tree.body, hidden):
        if node.tag == "-text":
            for part in parts if step > 0 else ():
                part.say(node.text_content or "")
            continue
        if step > 0 and not inside and node.mem_id in bodies:
            inside = node.mem_id  # what stands in it and could be one is shorter
            parts.append(_Article())
        for part in parts:
            part.turn(node.tag, step)
        if step < 0 and inside == node.mem_id:
            inside = 0
            found.append(parts.pop())
    best = max(found, key=lambda part: part.size, default=parts[0])
    if best.size < _ARTICLE_CHARS_MIN:
        best = parts[0]
    yield "\n".join(best.lines or best.loose)[:CHARS_MAX]
