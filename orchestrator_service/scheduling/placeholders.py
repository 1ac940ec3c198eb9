"""`{{results.ID.output}}` in a description: the output of a task that this one needs."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Final

from agent_bus.messages import Result

_PLACEHOLDER: Final = re.compile(r"\{\{\s*results\.([A-Za-z0-9][A-Za-z0-9._:@+-]*?)\.(output|structured_output)\s*\}\}")


def names_in(description: str) -> list[str]:
    """Return the task ids or keys that a description names, each once, in order."""
    if "{{" not in description:
        return []
    return list(dict.fromkeys(match[1] for match in _PLACEHOLDER.finditer(description)))


def rename(description: str, names: Mapping[str, str]) -> str:
    """Return the description with keys of a graph replaced by the ids that they stand for."""
    if "{{" not in description:
        return description
    return _PLACEHOLDER.sub(lambda match: f"{{{{results.{names.get(match[1], match[1])}.{match[2]}}}}}", description)


def fill_in(description: str, result_of: Callable[[str], Result | None]) -> str:
    """Return the description with each placeholder replaced.

    Args:
        description: What was handed in.
        result_of: Gives the result of a task; None stands for one without a result, whose output is empty.
    """
    if "{{" not in description:
        return description

    def value(match: re.Match[str]) -> str:
        result = result_of(match[1])
        if result is None:
            return ""
        if match[2] == "output":
            return result.output
        return json.dumps(result.structured_output, ensure_ascii=False)

    # One pass: what an output contains is never taken for a placeholder itself.
    return _PLACEHOLDER.sub(value, description)
