"""Writes YAML with a comment after each value that says where it comes from."""

from collections.abc import Callable, Iterator
from typing import Any

import yaml

from tinygptv.loading.mistakes import Place
from tinygptv.loading.written import Written

_WIDTH = 120
"""Longest list on one line, in characters, without its comment."""


def annotated(value: Written, shown: Callable[[Place], str] = str, indent: str = "") -> Iterator[str]:
    """The lines of a mapping, which load as `value.plain()`; `shown` words the origin of a value."""
    for key, child in value.content.items():
        yield from _entry(f"{indent}{_scalar(key)}:", child, shown, f"{indent}  ")


def _entry(start: str, value: Written, shown: Callable[[Place], str], indent: str) -> Iterator[str]:
    """What follows a key or a dash."""
    if isinstance(value.content, dict) and value.content:
        yield start
        yield from annotated(value, shown, indent)
    elif isinstance(value.content, list) and (line := _on_one_line(value, shown)) is None:
        yield start
        for item in value.content:
            yield from _item(item, shown, indent)
    else:
        line = line if isinstance(value.content, list) else _scalar(value.content)
        yield f"{start} {line}  # {shown(_origin(value))}"


def _item(item: Written, shown: Callable[[Place], str], indent: str) -> Iterator[str]:
    if isinstance(item.content, dict) and item.content:
        first, *others = annotated(item, shown, f"{indent}  ")
        yield f"{indent}- {first.lstrip()}"
        yield from others
    else:
        yield from _entry(f"{indent}-", item, shown, f"{indent}  ")


def _on_one_line(value: Written, shown: Callable[[Place], str]) -> str | None:
    """A short list of scalars from one place as `[a, b]`."""
    items = value.content
    if any(isinstance(item.content, (dict, list)) for item in items):
        return None
    if len({shown(item.place) for item in items}) > 1:
        return None
    line = f"[{', '.join(_scalar(item.content, in_list=True) for item in items)}]"
    return line if len(line) <= _WIDTH else None


def _origin(value: Written) -> Place:
    """The place of a value; of a list, that of its first item, which may be below its key."""
    return value.content[0].place if isinstance(value.content, list) and value.content else value.place


def _scalar(value: Any, in_list: bool = False) -> str:
    """A value on one line; more values need quotes within `[…]`."""
    quotes = '"' if isinstance(value, str) and not value.isprintable() else None
    content = [value] if in_list else value
    dumped = yaml.safe_dump(
        content, default_flow_style=True, default_style=quotes, width=float("inf"), allow_unicode=True
    )
    text: str = dumped.removesuffix("\n").removesuffix("\n...")
    return text[1:-1] if in_list else text
