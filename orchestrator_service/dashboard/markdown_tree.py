"""Markdown as a tree of plain values, from which the page builds elements: no HTML is made anywhere on the way."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cache
from typing import Any, Final

from markdown_it import MarkdownIt
from markdown_it.token import Token

LONGEST: Final = 400_000
"""Characters; what is beyond is cut off, and said so."""

_NAMES: Final = {
    "paragraph": "p",
    "bullet_list": "ul",
    "ordered_list": "ol",
    "list_item": "li",
    "blockquote": "blockquote",
    "em": "em",
    "strong": "strong",
    "s": "s",
    "table": "table",
    "thead": "thead",
    "tbody": "tbody",
    "tr": "tr",
    "th": "th",
    "td": "td",
}
_SAFE_LINKS: Final = ("http://", "https://", "mailto:")

Node = dict[str, Any]


@cache
def _parser() -> MarkdownIt:
    # HTML stays the text that it is, and no file of another host is ever shown.
    return MarkdownIt("commonmark", {"html": False, "maxNesting": 40}).enable(["table", "strikethrough"])


def markdown_tree(text: str) -> list[Node | str]:
    """Return the nodes of a text: strings, and objects with `tag`, `children` and sometimes `href`, `start`, `lang`."""
    return _nodes(iter(_parser().parse(text[:LONGEST])))


def _nodes(tokens: Iterator[Token]) -> list[Node | str]:
    found: list[Node | str] = []
    for token in tokens:
        if token.nesting == -1:
            return found
        if token.nesting == 1:
            found += _element(token, _nodes(tokens))
        else:
            found += _leaf(token)
    return found


def _element(token: Token, children: list[Node | str]) -> Iterable[Node | str]:
    kind = token.type.removesuffix("_open")
    if kind == "heading":
        return [{"tag": token.tag, "children": children}]
    if kind == "link":
        href = str(token.attrs.get("href", ""))
        return [{"tag": "a", "href": href, "children": children}] if _is_safe(href) else children
    if kind == "paragraph" and token.hidden:
        return children
    node: Node = {"tag": _NAMES.get(kind, "span"), "children": children}
    if kind == "ordered_list" and "start" in token.attrs:
        node["start"] = int(token.attrs["start"])
    return [node]


def _leaf(token: Token) -> list[Node | str]:
    match token.type:
        case "inline":
            return _nodes(iter(token.children or []))
        case "text" | "html_inline" | "html_block":
            return [token.content] if token.content else []
        case "softbreak":
            return ["\n"]
        case "hardbreak":
            return [{"tag": "br", "children": []}]
        case "code_inline":
            return [{"tag": "code", "children": [token.content]}]
        case "fence" | "code_block":
            language = token.info.split()[0][:40] if token.info.strip() else ""
            code: Node = {"tag": "pre", "children": [{"tag": "code", "children": [token.content]}]}
            return [{**code, "lang": language} if language else code]
        case "hr":
            return [{"tag": "hr", "children": []}]
        case "image":
            # A picture would ask its host for itself: it is named, and can be followed by hand.
            return _image(token)
        case _:
            return [token.content] if token.content else []


def _image(token: Token) -> list[Node | str]:
    source = str(token.attrs.get("src", ""))
    words = f"[image: {token.content or source}]"
    return [{"tag": "a", "href": source, "children": [words]}] if _is_safe(source) else [words]


def _is_safe(address: str) -> bool:
    return address.lower().startswith(_SAFE_LINKS)
