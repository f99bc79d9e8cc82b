"""Ours against the published implementations: every recorded case, from the weight files alone."""

from pathlib import Path

import pytest

from tinygptv.golden import check_folder

CASES = {
    "tinygptv": {"stage1": 2, "stage2": 2, "stage3": 2, "stage4": 3},
    "minigpt": {"stage1": 2, "stage2": 2, "stage3": 3},
}
"""How many checks a case has: its batch with all gradients, its conversation if it has one, its generation."""


@pytest.mark.parametrize(("family", "stage"), [(family, stage) for family, stages in CASES.items() for stage in stages])
def test_a_published_checkpoint_computes_what_it_did_where_it_was_trained(
    shared: Path, family: str, stage: str
) -> None:
    outcomes = list(check_folder(shared / "golden" / family / stage))
    assert [outcome.as_json() for outcome in outcomes if not outcome.ok] == []
    assert len(outcomes) == CASES[family][stage]
    told = outcomes[0].differences
    assert told.keys() == {
        "vision_embeds", "image_embeds", "labels", "attention_mask", "inputs_embeds", "logits", "loss", "gradients"
    }  # fmt: skip


def test_no_recorded_case_of_these_families_is_left_out(shared: Path) -> None:
    golden = shared / "golden"
    recorded = {path.parent.relative_to(golden) for family in CASES for path in golden.glob(f"{family}/*/case.json")}
    assert recorded == {Path(family, stage) for family, stages in CASES.items() for stage in stages}
