"""Turns the errors of a schema into mistakes with the line to look at, each reported once."""

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from tinygptv.errors import UnknownNameError, closest, did_you_mean
from tinygptv.loading.derived import STAGE, STAGES
from tinygptv.loading.mistakes import FieldPath, Mistake, field_name
from tinygptv.loading.schema import model_at
from tinygptv.loading.wording import literals, one_of, shown, wording
from tinygptv.loading.written import Written

KEY = "[key]"
"""In a pydantic location: the key of a mapping is wrong, not its value."""

_FIELD_IN_MESSAGE = re.compile(r"(?P<path>[a-z_]\w*(\[\d+\])*(\.\w+(\[\d+\])*)*): ")


def explain(error: ValidationError, written: Written, schema: Any) -> list[Mistake]:
    """Every mistake that made `schema` refuse `written`."""
    return _Explanation(written, schema).mistakes(error.errors(include_url=False))


class _Explanation:
    """The errors of one definition, grouped by the mapping or union they are about."""

    def __init__(self, written: Written, schema: Any) -> None:
        self._root = written
        self._schema = schema
        self._missing: dict[FieldPath, list[str]] = defaultdict(list)
        self._unknown: dict[FieldPath, list[str]] = defaultdict(list)
        self._wrong: dict[FieldPath, list[_Problem]] = defaultdict(list)

    def mistakes(self, problems: Sequence[ErrorDetails]) -> list[Mistake]:
        for problem in problems:
            self._sort_in(problem)
        found = [mistake for path, keys in self._unknown.items() for mistake in self._unknown_keys(path, keys)]
        found += [self._missing_keys(path, keys) for path, keys in self._missing.items() if keys]
        found += [mistake for path, wrong in self._wrong.items() for mistake in self._wrong_values(path, wrong)]
        once = {(one.place, one.field.rpartition(".")[2], one.text): one for one in reversed(found)}
        return list(reversed(once.values()))

    def _sort_in(self, problem: ErrorDetails) -> None:
        location = problem["loc"]
        match problem["type"]:
            case "missing":
                self._missing[self._locate(location[:-1]).path].append(str(location[-1]))
            case "extra_forbidden":
                self._unknown[self._locate(location[:-1]).path].append(str(location[-1]))
            case "union_tag_not_found":
                path, key = self._locate(location).path, problem["ctx"]["discriminator"].strip("'")
                self._missing[path].append(key)
                self._unknown[path] += [one for one in self._root.nearest(path).content if closest(one, [key])]
            case _:
                located = self._locate(location)
                self._wrong[located.union].append(_Problem(located, problem))

    def _locate(self, location: tuple[int | str, ...]) -> "_Located":
        """The path in the YAML that a pydantic location stands for.

        A location also holds parts that are no keys: the tag or the member of a union that was tried, and `[key]`.
        """
        node, member = self._root, ""
        path: FieldPath = ()
        union: FieldPath | None = None
        for part in location:
            if (child := node.get(part)) is not None:
                node, path = child, (*path, part)
            elif union is None and not _is_tag(part, node):
                union, member = path, str(part)
        return _Located(path, path if union is None else union, member)

    def _unknown_keys(self, path: FieldPath, keys: Sequence[str]) -> Iterator[Mistake]:
        """A misspelled required field is one mistake: its key is unknown, so the field is not missing as well."""
        node, missing = self._root.nearest(path), self._missing[path]
        model = model_at(self._schema, self._root, path)
        for key in keys:
            file = self._root.nearest((*path, key)).place.file
            taken = [name for name, value in node.content.items() if value.place.file == file]
            fields = [name for name in model.model_fields if name not in taken] if model else list(missing)
            if (meant := closest(key, missing) or closest(key, fields)) in missing:
                missing.remove(meant)
            place = self._root.nearest((*path, key)).place
            advice = did_you_mean(key, [meant] if meant else fields) if fields else "Remove it."
            yield Mistake(place, field_name((*path, key)), f"unknown key. {advice}")

    def _missing_keys(self, path: FieldPath, keys: Sequence[str]) -> Mistake:
        node = self._root.nearest(path)
        if len(keys) == 1:
            return Mistake(node.place, field_name((*path, keys[0])), "missing; add it")
        text = f"missing: {', '.join(keys)}; add them{self._new_stage(path, node)}"
        return Mistake(node.place, field_name(path), text)

    def _new_stage(self, path: FieldPath, node: Written) -> str:
        """A hint for a derived recipe, in which a stage with a misspelled name is new and lacks most of its fields."""
        stages, name = self._root.get(STAGES), node.get(STAGE)
        if len(path) != 2 or path[0] != STAGES or stages is None or name is None:
            return ""
        others = [stage for stage in stages.content if stage is not node and stage.place.file != node.place.file]
        known = [str(stage.content[STAGE].content) for stage in others if stage.get(STAGE)]
        return f". The base has no stage '{name.content}'. {did_you_mean(str(name.content), known)}" if known else ""

    def _wrong_values(self, union: FieldPath, wrong: "Sequence[_Problem]") -> Iterator[Mistake]:
        """If one member of a union accepts more of the value than the others, its errors are the ones to report."""
        members = {problem.located.member for problem in wrong}
        deeper = [problem for problem in wrong if len(problem.located.path) > len(union)]
        if len(members) > 1 and not deeper:
            node = self._root.nearest(union)
            yield Mistake(node.place, field_name(union), wording([problem.details for problem in wrong]))
            return
        for problem in deeper if len(members) > 1 else wrong:
            yield self._wrong_value(problem.located.path, problem.located.member, problem.details)

    def _wrong_value(self, path: FieldPath, member: str, problem: ErrorDetails) -> Mistake:
        node = self._root.nearest(path)
        if member == KEY:
            return Mistake(node.place, field_name(path), f"unknown key; {one_of(problem['input'], literals(problem))}")
        if problem["type"] == "union_tag_invalid":
            path = (*path, problem["ctx"]["discriminator"].strip("'"))
            tag = self._root.nearest(path)
            text = f"found {shown(tag.plain())}, {one_of(tag.plain(), literals(problem))}"
            return Mistake(tag.place, field_name(path), text)
        if problem["type"] == "value_error":
            return self._broken_rule(path, problem["ctx"]["error"])
        return Mistake(node.place, field_name(path), wording([problem]))

    def _broken_rule(self, path: FieldPath, error: Exception) -> Mistake:
        """The message of a validator, which may begin with the path of a field below the validator's own."""
        node, text = self._root.nearest(path), str(error)
        named = _FIELD_IN_MESSAGE.match(text)
        if named and node.get(re.split(r"[.\[]", named["path"])[0]) is not None:
            path = (*path, *_parsed(named["path"]))
            return Mistake(self._root.nearest(path).place, field_name(path), text[named.end() :])
        if isinstance(error, UnknownNameError) and isinstance(node.content, dict):
            key = next((key for key, value in node.content.items() if value.content == error.found), None)
            path = path if key is None else (*path, key)
            return Mistake(self._root.nearest(path).place, field_name(path), text)
        return Mistake(self._mentioned(node, text).place, field_name(path), text)

    def _mentioned(self, node: Written, text: str) -> Written:
        """The first entry of a mapping that a message names; entries of the requested file win over its base's."""
        if not isinstance(node.content, dict):
            return node
        places = {key: found.start() for key in node.content if (found := re.search(rf"\b{re.escape(key)}\b", text))}
        own = {key: at for key, at in places.items() if node.content[key].place.file == self._root.place.file}
        named = own or places
        return node.content[min(named, key=lambda key: named[key])] if named else node


@dataclass(frozen=True)
class _Located:
    """A path in the YAML, and the path of the union it was tried in, with the member that was tried."""

    path: FieldPath
    union: FieldPath
    member: str


@dataclass(frozen=True)
class _Problem:
    located: _Located
    details: ErrorDetails


def _is_tag(part: int | str, node: Written) -> bool:
    """Whether a part of a location is the tag of a discriminated union."""
    return isinstance(node.content, dict) and any(value.content == part for value in node.content.values())


def _parsed(path: str) -> FieldPath:
    """`stages[0].inputs` as a path."""
    return tuple(int(number) if number else name for name, number in re.findall(r"([a-z_]\w*)|\[(\d+)\]", path))
