"""A recipe over its base: what is merged, what is replaced, and where each value then comes from."""

from typing import Any

import yaml

from tinygptv.loading import derived
from tinygptv.loading.written import Written, parse

BASE: dict[str, Any] = {
    "seed": 1,
    "model": {
        "language_model": {"architecture": "phi", "width": 8, "rotary_fraction": 0.5},
        "connector": [{"width": 8}],
    },
    "stages": [{"stage": "one", "inputs": {"size": 2, "end": "x"}}, {"stage": "two"}],
    "benchmarks": ["a", "b"],
}


def written(content: Any, file: str = "changes.yaml") -> Written:
    return parse(yaml.safe_dump(content, sort_keys=False).encode(), file)[0]


def derive(base: Any, changes: Any) -> Any:
    return derived.derive(written(base, "base.yaml"), written(changes)).plain()


def test_mappings_are_merged_key_by_key() -> None:
    found = derive(BASE, {"seed": 2, "stages": [{"stage": "one", "inputs": {"size": 3}}]})
    assert found == BASE | {
        "seed": 2,
        "stages": [{"stage": "one", "inputs": {"size": 3, "end": "x"}}, {"stage": "two"}],
    }


def test_stages_keep_the_bases_order_and_new_ones_come_last() -> None:
    found = derive(BASE, {"stages": [{"stage": "three"}, {"stage": "two", "about": "changed"}]})
    assert [stage["stage"] for stage in found["stages"]] == ["one", "two", "three"]
    assert found["stages"][1] == {"stage": "two", "about": "changed"}


def test_other_lists_are_replaced() -> None:
    found = derive(BASE, {"benchmarks": ["c"], "model": {"connector": [{"count": 4}]}})
    assert found["benchmarks"] == ["c"]
    assert found["model"]["connector"] == [{"count": 4}]
    assert found["model"]["language_model"] == BASE["model"]["language_model"]


def test_a_part_that_names_its_architecture_stands_for_itself() -> None:
    llama = {"architecture": "llama", "width": 8}
    assert derive(BASE, {"model": {"language_model": llama}})["model"]["language_model"] == llama


def test_each_value_keeps_the_file_it_is_written_in() -> None:
    changes = written({"stages": [{"stage": "two", "inputs": {"size": 3}}, {"stage": "one", "inputs": {"size": 4}}]})
    merged = derived.derive(written(BASE, "base.yaml"), changes)
    places = {
        path: merged.nearest(path).place
        for path in [("stages", 0, "inputs", "size"), ("stages", 0, "inputs", "end"), ("stages", 1, "inputs", "size")]
    }
    assert [place.file for place in places.values()] == ["changes.yaml", "base.yaml", "changes.yaml"]
    assert places["stages", 0, "inputs", "size"].line == 7


def test_a_stage_that_does_not_say_which_one_it_changes_is_left_out_and_reported() -> None:
    changes = written({"stages": [{"stage": "one"}, {"stag": "two"}, {"about": "x"}, "two", {"stage": "one"}]})
    kept, mistakes = derived.check_stages(changes)
    assert kept.plain() == {"stages": [{"stage": "one"}]}
    assert [str(mistake) for mistake in mistakes] == [
        "changes.yaml:3: stages[1].stag: unknown key. Did you mean 'stage'?",
        "changes.yaml:4: stages[2]: want a mapping that says which stage of the base it changes; "
        "begin it with `stage: NAME`",
        "changes.yaml:5: stages[3]: want a mapping that says which stage of the base it changes; "
        "begin it with `stage: NAME`",
        "changes.yaml:6: stages[4].stage: 'one' is changed twice, first in line 2; keep one of them",
    ]
