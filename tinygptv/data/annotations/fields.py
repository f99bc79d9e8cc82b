"""The keys of an object in an annotation file: each is read, ignored by name, or reported as unread.

A layout describes its objects as `Part`s. Invalid objects are rejected under a reason that names the field. Unknown
keys are listed by `unread_keys`; one that holds a picture or a turn rejects the record, because training would not see
what was written.
"""

import functools
from collections.abc import Iterable, Iterator
from typing import Annotated, Any, ClassVar, TypeVar, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError

_CONTENT_KEYS = frozenset(
    (
        *("image", "images", "img", "imgs", "image_list", "picture", "pictures", "photo", "photos", "pixel_values"),
        *("image_path", "image_paths", "image_file", "image_files", "img_path", "file_name", "filename"),
        *("video", "videos", "video_path", "audio", "audios", "audio_path"),
        *("conversation", "conversations", "message", "messages", "dialog", "dialogue", "history", "query", "response"),
        *("system", "system_prompt", "tools", "functions"),
    )
)
"""Keys that hold a picture, another medium or a message, in any layout."""

REPEATED = "a key that stands twice"
"""Key that the JSON reader adds to an object with a repeated key, since one of the values would be lost."""

_LEVELS = 4  # maximum nesting of a layout's objects inside a record
_MAX_DETAIL_LENGTH = 500  # characters
_Part = TypeVar("_Part", bound="Part")


# Types of fields


def _text_of_number(value: Any) -> Any:
    """Spreadsheets and data frames write 7 as 7.0."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def as_number(text: str) -> int | None:
    """The number written as decimal digits, or None."""
    return int(text) if text.isdecimal() and len(text) <= 18 else None


def _number_of_text(value: Any) -> Any:
    text = _text_of_number(value)
    return as_number(text) if isinstance(text, str) else value


def _list_of_one(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


Id = Annotated[str, BeforeValidator(_text_of_number)]
"""A string or an integer."""

Number = Annotated[int, BeforeValidator(_number_of_text)]
"""An integer, or its digits."""

Texts = Annotated[list[str], BeforeValidator(_list_of_one)]
"""A string or a list of strings."""


# Objects


class RejectedError(Exception):
    """A record that cannot be used.

    The message is the reason it is counted under, `detail` what was found; `wanted` is the kind of object expected and
    `place` its location, if known.
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason)
        self.detail = printable(detail or reason)[:_MAX_DETAIL_LENGTH]
        self.wanted: type[Part] | None = None
        self.place = ""


class Part(BaseModel):
    """One kind of object in a layout's files. Its fields are the keys that are read; null counts as absent."""

    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)

    ignored: ClassVar[frozenset[str]] = frozenset()
    """Keys of published files that are deliberately not read."""

    switches: ClassVar[frozenset[str]] = frozenset()
    """Keys that turn training on something on or off: true and 1 are accepted, anything else rejects the record."""

    needed: ClassVar[tuple[str, ...]] = ()
    """Fields that are required, although an alternative may replace them."""


class Record(Part):
    """An object that becomes one sample. A source may select one `split`."""

    split: Id | None = None


def part_of(kind: type[_Part], value: Any) -> _Part:
    """Validate a JSON value as an object. Raises RejectedError, naming the missing or invalid field."""
    try:
        return kind.model_validate(value)
    except ValidationError:
        value = _without_nulls(value)
    if _repeats_a_key(value):
        raise _repeated_key()
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        fault = error.errors(include_url=False, include_input=False)[0]
        raise _rejected(fault["type"], fault["loc"], value) from None


def unread_keys(part: Part) -> Iterator[str]:
    """Keys of an object and its nested objects that are neither read nor ignored, such as `conversations[].id`.

    Raises RejectedError for one that holds a picture or a turn.
    """
    for key, value in (part.model_extra or {}).items():
        if key == REPEATED:
            raise _repeated_key()
        if key not in part.ignored and value is not None:
            name = key.lower()
            if (name in _CONTENT_KEYS and value not in ("", [], {})) or (name in part.switches and value != 1):
                raise RejectedError(f"unknown_key_{name}", f"the key '{key}' is not supported here")
            yield key
    for field in _lists_of_parts(type(part)):
        for item in getattr(part, field):
            if item.model_extra:
                yield from (f"{field}[].{key}" for key in unread_keys(item))


def wants(kind: type[Part]) -> str:
    """Describe what a layout's records contain, for messages."""
    needed = [name for name, field in kind.model_fields.items() if field.is_required() or name in kind.needed]
    others = [name for name in kind.model_fields if name not in needed]
    return ", ".join(needed) + (f"; it also reads {', '.join(others)}" if others else "")


def missing(part: Part, name: str) -> RejectedError:
    """The error for an object without a field."""
    return _missing(name, {*part.model_fields_set, *(part.model_extra or ())})


def printable(text: str) -> str:
    """Text from a file, which may not be UTF-8, in a printable form."""
    return text.encode("utf-8", "backslashreplace").decode()


@functools.cache
def _lists_of_parts(kind: type[Part]) -> tuple[str, ...]:
    """The fields that hold lists of nested objects; those are not nested further."""
    return tuple(
        name
        for name, field in kind.model_fields.items()
        if any(isinstance(held, type) and issubclass(held, Part) for held in get_args(field.annotation))
    )


def _without_nulls(value: Any, levels: int = _LEVELS) -> Any:
    if isinstance(value, dict) and levels:
        return {key: _without_nulls(item, levels - 1) for key, item in value.items() if item is not None}
    return [_without_nulls(item, levels - 1) for item in value] if isinstance(value, list) and levels else value


def _repeats_a_key(value: Any, levels: int = _LEVELS) -> bool:
    if isinstance(value, dict) and levels:
        return REPEATED in value or any(_repeats_a_key(item, levels - 1) for item in value.values())
    return isinstance(value, list) and bool(levels) and any(_repeats_a_key(item, levels - 1) for item in value)


def _repeated_key() -> RejectedError:
    return RejectedError("repeated_key", "a key occurs twice in one object")


def _rejected(fault: str, place: tuple[int | str, ...], value: Any) -> RejectedError:
    if fault == "string_unicode":
        return RejectedError("not_utf8")
    name = "".join("[]" if isinstance(step, int) else f".{step}" for step in place).removeprefix(".")
    if not name:
        return RejectedError("malformed_record: not an object", f"expected an object, found {type(value).__name__}")
    if fault == "missing":
        return _missing(name, value)
    return RejectedError(f"malformed_record: {name}", f"'{name}' has the wrong type or is out of range")


def _missing(name: str, found: Iterable[str]) -> RejectedError:
    return RejectedError(
        f"malformed_record: no {name}", f"it has no '{name}', but {', '.join(sorted(found)[:20]) or 'no keys'}"
    )
