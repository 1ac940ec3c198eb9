"""The events of a YAML document without libyaml, in the shape in which `yaml.cyaml.CParser` gives them."""

from __future__ import annotations

from yaml.parser import Parser
from yaml.reader import Reader
from yaml.scanner import Scanner


class PlainEvents(Reader, Scanner, Parser):
    """Reads, scans and parses in Python."""

    def __init__(self, text: str) -> None:
        Reader.__init__(self, text)
        Scanner.__init__(self)
        Parser.__init__(self)
