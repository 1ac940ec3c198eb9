"""Why a container does not start."""

from __future__ import annotations


class Refused(Exception):
    """The container cannot do its part; the text is one sentence that says what is wrong and what to do."""
