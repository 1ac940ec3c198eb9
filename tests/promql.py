"""What a query of Prometheus asks for: its selectors, and the labels by which it joins and sums."""

from __future__ import annotations

import re
from dataclasses import dataclass

_TOKEN = re.compile(r""""(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'|\[[^\]]*\]|\d[\w.]*|[A-Za-z_:][\w:]*|=~|!~|!=|==|[^\s]""")
_WITH_LABELS = {"by", "without", "on", "ignoring", "group_left", "group_right"}
_WORDS = {"and", "or", "unless", "bool", "offset", "atan2", "inf", "nan"}
_AGGREGATIONS = {"sum", "min", "max", "avg", "count", "topk", "bottomk", "quantile", "group", "stddev", "stdvar"}


@dataclass(frozen=True)
class Selector:
    """A metric, and what its labels must be."""

    metric: str
    matchers: tuple[tuple[str, str, str], ...] = ()
    """Label, operator, and the value without its quotes."""

    def __str__(self) -> str:
        inside = ",".join(f'{label}{operator}"{value}"' for label, operator, value in self.matchers)
        return f"{self.metric}{{{inside}}}" if inside else self.metric


@dataclass(frozen=True)
class Asked:
    """All that one query names."""

    selectors: tuple[Selector, ...]
    labels: frozenset[str]
    """Those that are not within a selector."""


def asked_for(query: str) -> Asked:
    """Take a query apart; it is one that Prometheus has understood."""
    tokens = _TOKEN.findall(query)
    selectors: list[Selector] = []
    labels: set[str] = set()
    place = 0
    while place < len(tokens):
        token = tokens[place]
        follows = tokens[place + 1] if place + 1 < len(tokens) else ""
        place += 1
        if token in _WITH_LABELS:
            if follows == "(":
                end = tokens.index(")", place)
                labels |= {name for name in tokens[place + 1 : end] if name != ","}
                place = end + 1
        elif re.match(r"[A-Za-z_:]", token) and token not in _WORDS | _AGGREGATIONS and follows != "(":
            matchers: list[tuple[str, str, str]] = []
            if follows == "{":
                end = tokens.index("}", place)
                inside = [part for part in tokens[place + 1 : end] if part != ","]
                matchers = [(inside[at], inside[at + 1], inside[at + 2][1:-1]) for at in range(0, len(inside), 3)]
                place = end + 1
            selectors.append(Selector(token, tuple(matchers)))
    return Asked(tuple(selectors), frozenset(labels))
