"""Words for the errors of pydantic: what was found, what is allowed, what to do."""

import re
from collections.abc import Sequence
from typing import Any

from pydantic_core import ErrorDetails

from tinygptv.errors import closest

_MAPPING = "a mapping (key: value)"
_WANTED = {
    "string_type": "text",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "list_type": "a list",
    "dict_type": _MAPPING,
    "model_type": _MAPPING,
    "model_attributes_type": _MAPPING,
}
_LIMITS = {
    "greater_than": ("gt", "more than {}"),
    "greater_than_equal": ("ge", "at least {}"),
    "less_than": ("lt", "less than {}"),
    "less_than_equal": ("le", "at most {}"),
    "string_too_short": ("min_length", "at least {} character(s)"),
    "string_too_long": ("max_length", "at most {} character(s)"),
    "too_short": ("min_length", "at least {} item(s)"),
    "string_pattern_mismatch": ("pattern", "text that matches {}"),
}
_LONGEST = 60


def wording(problems: Sequence[ErrorDetails]) -> str:
    """One message for a wrong value; several problems mean that every member of a union refuses it."""
    first = problems[0]
    if first["type"] == "value_error":
        return str(first["ctx"]["error"])
    if any(wanted(problem) is None for problem in problems):
        return f"{first['msg']} (found {shown(first['input'])})"
    found = first["input"]
    choices = [choice for problem in problems for choice in literals(problem)]
    others = [wanted(problem) or "" for problem in problems if not literals(problem)]
    if choices and not others:
        return f"found {shown(found)}, {one_of(found, choices)}"
    allowed = " or ".join(dict.fromkeys([*others, *choices]))
    return f"found {shown(found)}, want {allowed}{_hint(first['type'], found)}{_meant(found, choices)}"


def one_of(found: Any, choices: Sequence[str]) -> str:
    """The allowed values, and the one that was probably meant."""
    return f"want {'' if len(choices) == 1 else 'one of '}{', '.join(choices)}{_meant(found, choices)}"


def shown(value: Any) -> str:
    """A value as messages show it."""
    if value is None:
        return "nothing (null)"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return f"a list of {len(value)} item(s)"
    text = repr(value) if isinstance(value, str) else str(value)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


def wanted(problem: ErrorDetails) -> str | None:
    """What the schema allows, to follow `want`; None for errors that have their own message."""
    kind = problem["type"]
    if kind == "literal_error":
        return ", ".join(literals(problem))
    if kind in _LIMITS:
        key, form = _LIMITS[kind]
        limit = problem["ctx"][key]
        return form.format(f"{limit:g}" if isinstance(limit, float) else limit)
    return _WANTED.get(kind)


def literals(problem: ErrorDetails) -> list[str]:
    """The values that a literal or a tag allows; empty for other errors."""
    key = {"literal_error": "expected", "union_tag_invalid": "expected_tags"}.get(problem["type"])
    expected = problem["ctx"][key] if key else ""
    return [quoted or plain for quoted, plain in re.findall(r"'([^']*)'|([^\s,']+)", expected) if plain != "or"]


def _meant(found: Any, choices: Sequence[str]) -> str:
    meant = closest(found, choices) if isinstance(found, str) else None
    return f". Did you mean '{meant}'?" if meant else ""


def _hint(kind: str, found: Any) -> str:
    """How to write a value that YAML reads as another type."""
    if kind == "string_type" and isinstance(found, bool):
        return " (YAML reads yes, no, on and off as true and false: put text in quotes)"
    if kind == "string_type" and found is not None and not isinstance(found, (dict, list)):
        return "; put it in quotes if it is text"
    if kind in ("float_type", "int_type") and isinstance(found, str):
        return _number(found)
    if kind == "list_type" and isinstance(found, str):
        return f"; write [{found}]"
    return ""


def _number(found: str) -> str:
    """How to write a number that YAML reads as text."""
    if power := re.fullmatch(r"([+-]?\d+)e([+-]?)(\d+)", found, re.IGNORECASE):
        return f" (YAML reads {found} as text: write {power[1]}.0e{power[2] or '+'}{power[3]})"
    return "; leave out the quotes" if re.fullmatch(r"[+-]?[\d.]+", found) else ""
