"""A recipe derived from another: what is merged, what is replaced, and in which order."""

from typing import Any

from tinygptv.definitions.derived import derive

BASE: dict[str, Any] = {
    "seed": 1,
    "model": {
        "language_model": {"architecture": "phi", "width": 8, "rotary_fraction": 0.5},
        "connector": [{"width": 8}],
    },
    "stages": [{"stage": "one", "inputs": {"size": 2, "end": "x"}}, {"stage": "two"}],
    "benchmarks": ["a", "b"],
}


def test_mappings_are_merged_key_by_key_and_the_base_is_left_alone() -> None:
    found = derive(BASE, {"seed": 2, "stages": [{"stage": "one", "inputs": {"size": 3}}]})
    assert found == BASE | {
        "seed": 2,
        "stages": [{"stage": "one", "inputs": {"size": 3, "end": "x"}}, {"stage": "two"}],
    }
    assert BASE["seed"] == 1


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
