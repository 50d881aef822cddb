"""Read and write YAML: plain values in UTF-8, whatever the locale.

Unlike PyYAML's safe loader, aliases are refused (nine lines of them hold 9^8 values), as are tags,
duplicate keys and deep nesting; 1e-9 is a number, as in YAML 1.2, and a date is text.
"""

import re
from pathlib import Path
from typing import Any

import yaml

from . import atomic

DEEPEST = 32  # levels of nesting
FLOAT_TAG = "tag:yaml.org,2002:float"
DATE_TAG = "tag:yaml.org,2002:timestamp"
FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)[eE][-+]?[0-9]+\Z")


class YamlError(ValueError):
    """A file or text that is not plain YAML; the message names the file and the line."""


def _resolvers() -> dict[str, list[tuple[str, re.Pattern]]]:
    """Return the patterns of numbers, booleans and null: {first character: [(tag, pattern)]}."""
    resolvers = {}
    for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items():
        resolvers[first] = [(tag, pattern) for tag, pattern in pairs if tag != DATE_TAG]
    for first in "-+.0123456789":
        resolvers[first].append((FLOAT_TAG, FLOAT))
    return resolvers


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers = _resolvers()
    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node:
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent):
            raise _error(event, f"found the alias *{event.anchor}, expected its values written out")
        if event.tag:
            raise _error(event, f"found the tag {event.tag}, expected plain values")
        if self.depth == DEEPEST:
            raise _error(event, f"nested deeper than {DEEPEST} levels")
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        keys = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in keys:
                    raise _error(key, f"found the key {key.value!r} twice, expected it once")
                keys.add(key.value)
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    yaml_implicit_resolvers = _resolvers()

    def ignore_aliases(self, data: Any) -> bool:
        return True


def read(path: str | Path) -> Any:
    """Read the value that a file holds.

    Raises:
        YamlError: it is not plain YAML in UTF-8.
        OSError: it is missing or cannot be read.
    """
    try:
        text = atomic.read_text(path)
    except ValueError as error:  # not UTF-8
        raise YamlError(str(error)) from error
    return parse(text, path)


def parse(text: str, source: object) -> Any:
    """Parse YAML text; messages name `source`.

    Raises:
        YamlError: it is not plain YAML.
    """
    try:
        return yaml.load(text, _Loader)
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a number of 5,000 digits
        reason = f"not readable as YAML ({_reason(error)}); correct it"
        raise YamlError(f"{source}: {reason}") from error


def dump(value: Any) -> str:
    """Return a value as YAML that `parse` reads back, keys in their order."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def _error(item: yaml.Event | yaml.Node, problem: str) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=item.start_mark)


def _reason(error: Exception) -> str:
    mark = getattr(error, "problem_mark", None)
    where = f"line {mark.line + 1}: " if mark else ""
    return where + " ".join((getattr(error, "problem", None) or str(error)).split())
