"""YAML values that keep the line they are written in."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import yaml

from tinygptv.loading.mistakes import FieldPath, Mistake, Place, field_name, refusal
from tinygptv.loading.syntax import explain_syntax

# The parser in C, where PyYAML was built with it as its wheels are, is eight times as fast.
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True)
class Written:
    """A value and its place. `content` is a scalar, a list of Written, or a dict of name → Written.

    The place of a mapping's entry is that of its key, the place of a list's item that of the item.
    """

    content: Any
    place: Place

    def plain(self) -> Any:
        """The value without places."""
        if isinstance(self.content, dict):
            return {key: value.plain() for key, value in self.content.items()}
        if isinstance(self.content, list):
            return [item.plain() for item in self.content]
        return self.content

    def get(self, part: str | int) -> "Written | None":
        """The entry of a mapping or the item of a list, if there is one."""
        if isinstance(self.content, dict):
            return self.content.get(part)
        if isinstance(self.content, list) and isinstance(part, int) and part < len(self.content):
            found: Written = self.content[part]
            return found
        return None

    def nearest(self, path: FieldPath) -> "Written":
        """The value at a path, or else its nearest parent."""
        node = self
        for part in path:
            if (child := node.get(part)) is None:
                break
            node = child
        return node


def written_as(value: Any, place: Place) -> Written:
    """A plain value that comes from one place as a whole."""
    if isinstance(value, dict):
        return Written({key: written_as(child, place) for key, child in value.items()}, place)
    if isinstance(value, list):
        return Written([written_as(child, place) for child in value], place)
    return Written(value, place)


def parse(data: bytes, file: str) -> tuple[Written, list[Mistake]]:
    """The document of a YAML file, and the mistakes in it that are no syntax errors, such as duplicate keys.

    Raises DefinitionError, with the line, for what is not UTF-8, not YAML, or empty.
    """
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        message = f"byte 0x{data[error.start]:02x} is not UTF-8; save the file in UTF-8"
        raise refusal([Mistake(Place(file, line), "", message)]) from None
    try:
        reader = _Reader(text, file)
    except yaml.YAMLError:
        raise refusal([explain_syntax(text, file)]) from None
    return reader.root, reader.mistakes


class _Reader:
    """Turns the nodes of one file into Written values and collects mistakes in keys."""

    def __init__(self, text: str, file: str) -> None:
        self._file = file
        self.mistakes: list[Mistake] = []
        self._loader = _LOADER(text)
        try:
            node = self._loader.get_single_node()
            if node is None:
                raise refusal([Mistake(Place(file, 1), "", "the file is empty; want a mapping (key: value)")])
            self.root = self._read(node, self._place(node), (), ())
        finally:
            self._loader.dispose()

    def _place(self, node: yaml.Node) -> Place:
        return Place(self._file, node.start_mark.line + 1, node.start_mark.column)

    def _read(self, node: yaml.Node, place: Place, path: FieldPath, above: tuple[yaml.Node, ...]) -> Written:
        if node in above:
            raise refusal([Mistake(place, field_name(path), "this alias stands for a value that it is itself part of")])
        if isinstance(node, yaml.MappingNode):
            return Written(dict(self._entries(node, path, (*above, node))), place)
        if isinstance(node, yaml.SequenceNode):
            items = enumerate(node.value)
            return Written(
                [self._read(item, self._place(item), (*path, i), (*above, node)) for i, item in items], place
            )
        return Written(self._scalar(node, place, path), place)

    def _scalar(self, node: yaml.Node, place: Place, path: FieldPath) -> Any:
        try:
            return self._loader.construct_object(node)
        except ValueError as error:  # such as the 13th month of a date
            message = f"{node.value!r} cannot be read: {error}; put it in quotes if it is text"
            self.mistakes.append(Mistake(place, field_name(path), message))
            return node.value

    def _entries(
        self, node: yaml.MappingNode, path: FieldPath, above: tuple[yaml.Node, ...]
    ) -> Iterator[tuple[str, Written]]:
        lines: dict[str, int | None] = {}
        own = {id(key) for key, _ in node.value}
        self._loader.flatten_mapping(node)  # puts the entries that `<<` merges first, so that this mapping's own win
        for key_node, value in node.value:
            place = self._place(key_node)
            key = self._scalar(key_node, place, path) if isinstance(key_node, yaml.ScalarNode) else None
            if not isinstance(key, str):
                shown = key_node.value if isinstance(key_node, yaml.ScalarNode) else "a list or a mapping"
                message = f"found {shown} as a key, want text; put it in quotes if it is meant"
                self.mistakes.append(Mistake(place, field_name(path), message))
                continue
            if id(key_node) in own:
                if key in lines:
                    message = f"this key stands here twice, first in line {lines[key]}; keep one of them"
                    self.mistakes.append(Mistake(place, field_name((*path, key)), message))
                    continue
                lines[key] = place.line
            yield key, self._read(value, place, (*path, key), above)
