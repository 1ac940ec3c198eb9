"""Files that hold a graph of tasks, as YAML or JSON: read safely, checked, and told what is wrong in them."""

from __future__ import annotations

import json
import sys
from collections import Counter
from datetime import date
from pathlib import Path
from typing import Any, Final

import yaml
from pydantic import ValidationError
from yaml.composer import Composer
from yaml.constructor import SafeConstructor
from yaml.resolver import Resolver

from orchestrator_service.cli.errors import UserError
from orchestrator_service.cli.order_problems import refuse
from orchestrator_service.orders import GraphOrder

if yaml.__with_libyaml__:
    from yaml._yaml import CParser as _Events
else:  # it takes some ten times as long
    from orchestrator_service.cli.plain_yaml import PlainEvents as _Events  # type: ignore[assignment]

_LARGEST_BYTES: Final = 64 * 1024 * 1024
_MOST_NODES: Final = 2_000_000
"""Of a document with all its aliases written out: some lines of aliases of aliases can stand for more than any
memory holds."""


def read_graph(path: Path) -> GraphOrder:
    """Read a graph from a file, or from standard input where the path is `-`.

    The file holds a `GraphOrder` as the API takes it. Its `tasks` may also be a mapping: KEY → task.

    Raises:
        UserError: it cannot be read, or something in it is wrong.
    """
    name = "standard input" if path == Path("-") else str(path)
    return parse_graph(_read(path, name), name)


def parse_graph(text: str, name: str) -> GraphOrder:
    """Return the graph that the text holds; `name` is what the text is called in errors.

    Raises:
        UserError: something in it is wrong.
    """
    content = _parse(text, name)
    if not isinstance(content, dict):
        raise UserError(f"{name} holds {_kind(content)}; allowed is a mapping with `tasks`.")
    names: list[str] = []
    if isinstance(tasks := content.get("tasks"), dict):
        names = [str(key) for key in tasks]
        content = {**content, "tasks": [_with_key(name, str(key), task) for key, task in tasks.items()]}
    try:
        return GraphOrder.model_validate_json(json.dumps(content, allow_nan=False))
    except ValidationError as error:
        raise refuse(name, error, names) from None
    except RecursionError:
        raise UserError(f"{name} is nested too deep.") from None
    except (TypeError, ValueError) as error:
        raise UserError(f"{name} holds what JSON has not: {error}.") from None


def _read(path: Path, name: str) -> str:
    try:
        if path == Path("-"):
            body = sys.stdin.buffer.read(_LARGEST_BYTES + 1)
        else:
            with path.open("rb") as stream:
                body = stream.read(_LARGEST_BYTES + 1)
        if len(body) > _LARGEST_BYTES:
            raise UserError(f"{name} is larger than {_LARGEST_BYTES} bytes; divide the graph.")
        return body.decode()
    except OSError as error:
        raise UserError(f"{name} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{name} is not UTF-8 text (byte {error.start}).") from error


def _parse(text: str, name: str) -> object:
    try:
        # All JSON that one writes is YAML as well, but JSON is read in a tenth of the time.
        return json.loads(text, object_pairs_hook=_no_key_twice)
    except _KeyTwice as error:
        raise UserError(f"{name} has the key {str(error)[:80]!r} twice in one object.") from None
    except RecursionError:
        raise UserError(f"{name} is nested too deep.") from None
    except ValueError as error:
        if text.lstrip().startswith("{") and name.endswith(".json"):
            raise UserError(f"{name} is not valid JSON: {error}.") from None
    loader = _Loader(text)
    try:
        return loader.get_single_data()
    except yaml.YAMLError as error:
        raise UserError(f"{name} is not valid YAML: {_in_one_line(error)}.") from None
    except RecursionError:
        raise UserError(f"{name} is nested too deep.") from None
    except (ValueError, TypeError, OverflowError) as error:
        raise UserError(f"{name} holds a value that cannot be read: {error}.") from None
    finally:
        loader.dispose()


def _with_key(name: str, key: str, task: object) -> object:
    if not isinstance(task, dict):
        raise UserError(f"{name}: tasks.{key[:80]} is {_kind(task)}; allowed is a mapping with a `description`.")
    if task.get("key", key) != key:
        raise UserError(f"{name}: tasks.{key[:80]}.key is {str(task['key'])[:80]!r}; leave it out, it is {key[:80]!r}.")
    return {**task, "key": key}


class _KeyTwice(Exception):
    pass


def _no_key_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        counted = Counter(key for key, _ in pairs)
        raise _KeyTwice(counted.most_common(1)[0][0])
    return found


class _Loader(Composer, _Events, SafeConstructor, Resolver):
    """Safe YAML with moments as text, no key twice, and a bound for what aliases stand for."""

    def __init__(self, text: str) -> None:
        _Events.__init__(self, text)
        Composer.__init__(self)
        SafeConstructor.__init__(self)
        Resolver.__init__(self)
        self._nodes = 0
        self._size_of: dict[int, int] = {}

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Count what a node stands for while it is made."""
        mark: Any = getattr(self.peek_event(), "start_mark", None)
        if self.check_event(yaml.AliasEvent):
            node = super().compose_node(parent, index)
            if (size := self._size_of.get(id(node))) is None:
                raise yaml.MarkedYAMLError(problem="something contains itself", problem_mark=mark)
            self._nodes += size
        else:
            before = self._nodes
            self._nodes += 1
            node = super().compose_node(parent, index)
            self._size_of[id(node)] = self._nodes - before
        if self._nodes > _MOST_NODES:
            raise yaml.MarkedYAMLError(problem="its aliases stand for too much", problem_mark=mark)
        return node

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        """Refuse a key that stands there twice; what is merged in by `<<` may be overridden."""
        own = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode) and key.value != "<<"]
        if len(set(own)) < len(own):
            twice = next(key for key in own if own.count(key) > 1)
            mark: Any = node.start_mark
            raise yaml.MarkedYAMLError(problem=f"the key {twice[:80]!r} is there twice", problem_mark=mark)
        return super().construct_mapping(node, deep)

    def construct_timestamp(self, node: Any) -> str:
        """Return a moment as ISO text, as JSON would have it."""
        moment: date = self.construct_yaml_timestamp(node)
        return moment.isoformat()


_Loader.add_constructor("tag:yaml.org,2002:timestamp", _Loader.construct_timestamp)  # type: ignore[type-var]


def _in_one_line(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or str(error)
    place = "" if mark is None else f" (line {mark.line + 1}, column {mark.column + 1})"
    return " ".join(str(problem).split()) + place


def _kind(value: object) -> str:
    match value:
        case None:
            return "nothing"
        case list():
            return "a list"
        case dict():
            return "a mapping"
        case _:
            return "a single value"
