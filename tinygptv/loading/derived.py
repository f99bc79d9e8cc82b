"""A recipe that is another one with changes: `base: NAME`, then only what differs."""

import re
from collections.abc import Iterable
from dataclasses import replace

from tinygptv.errors import closest
from tinygptv.loading.mistakes import Mistake, field_name
from tinygptv.loading.written import Written

STAGES, STAGE, ARCHITECTURE = "stages", "stage", "architecture"


def derive(base: Written, changes: Written) -> Written:
    """`changes` over `base`; each value keeps the place where it is written.

    Mappings are merged key by key, and stages by their name, new ones at the end. All else takes the place of what was
    there: values, lists, and a part of the model that names its `architecture`, because the keys of one architecture
    mean nothing to another.
    """
    old, new = base.content, changes.content
    if isinstance(old, dict) and isinstance(new, dict) and ARCHITECTURE not in new:
        merged = {key: derive(old[key], value) if key in old else value for key, value in new.items()}
        return Written(old | merged, changes.place)
    if _are_stages(base) and _are_stages(changes):
        named = {_name(stage): stage for stage in new}
        known = {_name(stage): stage for stage in old}
        merged = known | {name: derive(known[name], stage) if name in known else stage for name, stage in named.items()}
        return Written(list(merged.values()), changes.place)
    return changes


def check_stages(changes: Written) -> tuple[Written, list[Mistake]]:
    """A derived recipe with the stages that can be merged, and the mistakes in the others.

    Each stage must say which stage of the base it changes, and no two may change the same one.
    """
    stages = changes.get(STAGES)
    if stages is None or not isinstance(stages.content, list):
        return changes, []
    named: dict[str, Written] = {}
    mistakes = []
    for position, item in enumerate(stages.content):
        if not _is_stage(item):
            mistakes.append(_unnamed(item, position))
        elif (name := _name(item)) in named:
            message = f"'{name}' is changed twice, first in line {named[name].place.line}; keep one of them"
            mistakes.append(Mistake(item.place, field_name((STAGES, position, STAGE)), message))
        else:
            named[name] = item
    return Written(changes.content | {STAGES: Written(list(named.values()), stages.place)}, changes.place), mistakes


def with_own_positions(mistakes: Iterable[Mistake], own: Written, merged: Written) -> list[Mistake]:
    """Mistakes of a merged recipe; those in the derived file get the stage positions of that file."""
    names = [_name(stage) for stage in _stages(own)]
    numbers = {at: names.index(_name(stage)) for at, stage in enumerate(_stages(merged)) if _name(stage) in names}

    def renamed(mistake: Mistake) -> Mistake:
        found = re.match(rf"{STAGES}\[(\d+)\]", mistake.field)
        if found is None or mistake.place.file != own.place.file or int(found[1]) not in numbers:
            return mistake
        return replace(mistake, field=f"{STAGES}[{numbers[int(found[1])]}]{mistake.field[found.end() :]}")

    return [renamed(mistake) for mistake in mistakes]


def _stages(recipe: Written) -> list[Written]:
    stages = recipe.get(STAGES)
    return stages.content if stages is not None and _are_stages(stages) else []


def _are_stages(value: Written) -> bool:
    return isinstance(value.content, list) and all(_is_stage(item) for item in value.content)


def _is_stage(item: Written) -> bool:
    name = item.get(STAGE)
    return name is not None and isinstance(name.content, str)


def _name(stage: Written) -> str:
    name: str = stage.content[STAGE].content
    return name


def _unnamed(item: Written, position: int) -> Mistake:
    for key, value in item.content.items() if isinstance(item.content, dict) else ():
        if closest(key, [STAGE]):
            return Mistake(value.place, field_name((STAGES, position, key)), f"unknown key. Did you mean '{STAGE}'?")
    message = "want a mapping that says which stage of the base it changes; begin it with `stage: NAME`"
    return Mistake(item.place, field_name((STAGES, position)), message)
