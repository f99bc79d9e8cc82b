"""YAML with line numbers: values, mistakes in keys, and syntax errors."""

import pytest

from tinygptv.errors import DefinitionError
from tinygptv.loading.written import Written, parse


def lines(written: Written, *paths: tuple[str | int, ...]) -> list[int | None]:
    return [written.nearest(path).place.line for path in paths]


def test_every_value_knows_the_line_of_its_key_or_of_its_item() -> None:
    written, mistakes = parse(
        b"# a comment\nabout: >\n  folded\n  text\nstages:\n  - {stage: one,\n     size: 2}\n", "f"
    )
    assert mistakes == []
    assert written.plain() == {"about": "folded text\n", "stages": [{"stage": "one", "size": 2}]}
    paths = [("about",), ("stages",), ("stages", 0), ("stages", 0, "size"), ("stages", 0, "missing"), ("stages", 1)]
    assert lines(written, *paths) == [2, 5, 6, 7, 6, 5]


def test_an_alias_stands_for_the_value_that_is_anchored() -> None:
    written, mistakes = parse(b"a: &rates {peak: 1, floor: 2}\nb: *rates\nc:\n  <<: *rates\n  floor: 3\n", "f")
    assert mistakes == []
    assert written.plain() == {
        "a": {"peak": 1, "floor": 2},
        "b": {"peak": 1, "floor": 2},
        "c": {"peak": 1, "floor": 3},
    }
    assert lines(written, ("b",), ("b", "peak"), ("c", "peak"), ("c", "floor")) == [2, 1, 1, 5]


def test_a_value_that_cannot_be_read_is_reported_and_the_rest_is_read() -> None:
    written, mistakes = parse(b"when: 2024-13-45\nseed: 1\n", "f")
    assert [str(mistake) for mistake in mistakes] == [
        "f:1: when: '2024-13-45' cannot be read: month must be in 1..12; put it in quotes if it is text"
    ]
    assert written.plain()["seed"] == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"seed: 1\nabout: x\nseed: 2\n", "f:3: seed: this key stands here twice, first in line 1; keep one of them"),
        (b"a:\n  no: x\n", "f:2: a: found no as a key, want text; put it in quotes if it is meant"),
        (b"? [a, b]\n: x\n", "f:1: found a list or a mapping as a key, want text; put it in quotes if it is meant"),
    ],
)
def test_a_wrong_key_is_reported_with_its_line(text: bytes, message: str) -> None:
    assert [str(mistake) for mistake in parse(text, "f")[1]] == [message]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "f:1: the file is empty; want a mapping (key: value)"),
        (b"# nothing but this\n", "f:1: the file is empty; want a mapping (key: value)"),
        (b"a: 1\nb: caf\xe9\n", "f:2: byte 0xe9 is not UTF-8; save the file in UTF-8"),
        ("a: 1\n".encode("utf-16"), "f:1: byte 0xff is not UTF-8; save the file in UTF-8"),
        (b"a:\n  b: 1\n\tc: 2\n", "f:3: a tab in the indentation; YAML is indented with spaces"),
        (b"a: 1\nb: \x07\n", "f:2: the character '\\x07' is not allowed; remove it"),
        (b"a:\n  b: 1\n c: 2\n", "f:3: the indentation does not match the lines above; indent lines of one block"),
        (b"a: 1\n  b: 2\n", "f:2: a ':' where no key can be. Either the indentation does not match"),
        (b"a: b: c\n", "f:1: a ':' where no key can be. Either the indentation does not match"),
        (b"a: 1\nb\nc: 2\n", "f:2: this is neither `key: value` nor `- item`"),
        (b"a: 1\n- b\n", "f:2: the indentation does not match the lines above"),
        (b"a: 1\nb: [1, 2\nc: 3\n", "f:2: the '[' that opens here is not closed"),
        (b"a: 1\nb: {c: 1\nd: 3\n", "f:2: the '{' that opens here is not closed"),
        (b'a: 1\nb: "x\nc: 3\n', "f:2: the quote that opens here is not closed"),
        (b"a: 1\nb: @x\n", "f:2: a text cannot begin with this character; put it in quotes"),
        (b"a: 1\n---\nb: 2\n", "f:2: a second document begins here"),
        (b"a: 1\nb: *c\n", "f:2: undefined alias 'c'; write the value, or anchor it (&)"),
        (b"a: 1\nb: &c {d: *c}\n", "f:2: b.d: this alias stands for a value that it is itself part of"),
        (b"a: 1\nb: !thing 2\n", "f:2: not valid YAML: could not determine a constructor for the tag '!thing'"),
        (b"a: 1\nb: {<<: 3}\n", "f:2: not valid YAML: while constructing a mapping expected a mapping"),
    ],
)
def test_what_cannot_be_read_is_reported_with_its_line_and_what_to_do(text: bytes, message: str) -> None:
    with pytest.raises(DefinitionError) as refused:
        parse(text, "f")
    assert str(refused.value).startswith(message)
