"""Conflicts between definitions of one run."""

import pytest

from tinygptv import catalog
from tinygptv.definitions.mixture import Component, Mixture
from tinygptv.loading.checks import (
    batch_conflicts,
    component_conflicts,
    feature_conflicts,
    quantization_conflicts,
)

GPU = catalog.hardware("rtx3090")
IN_NF4 = GPU.model_copy(update={"quantize_base": "nf4"})
MODEL = catalog.recipe("tinygptv").model
STAGE = catalog.recipe("tinygptv").stage("stage2")
BATCH = STAGE.global_batch_size


def mixture(*batch_sizes: int) -> Mixture:
    components = [
        Component(source=f"source{number}", task="vqa", weight=1.0, batch_size=size)
        for number, size in enumerate(batch_sizes)
    ]
    return Mixture(about="a test", draw="per_step", components=components)


@pytest.mark.parametrize(("ranks", "nodes"), [(1, 1), (2, 1), (2, 4)])
def test_ranks_that_divide_the_global_batch_share_it(ranks: int, nodes: int) -> None:
    assert list(batch_conflicts(STAGE, GPU.model_copy(update={"ranks": ranks, "nodes": nodes}), "mine")) == []


def test_ranks_of_all_machines_must_share_the_global_batch_evenly() -> None:
    (conflict,) = batch_conflicts(STAGE, GPU.model_copy(update={"ranks": 3, "nodes": 2}), "mine")
    message = f"infra/hardware/mine.yaml, ranks: 6 ranks cannot share the global batch of stage2, {BATCH}, evenly"
    assert str(conflict).startswith(message)


def test_a_step_of_a_component_holds_no_more_than_the_stage_plans_for() -> None:
    assert list(component_conflicts(STAGE, mixture(BATCH), GPU, "mine")) == []
    (conflict,) = component_conflicts(STAGE, mixture(BATCH, BATCH + 2), GPU, "mine")
    assert (conflict.kind, conflict.name) == ("mixture", STAGE.mixture)
    assert conflict.path == ("components", 1, "batch_size")
    assert f"source1 puts {BATCH + 2} samples into a step, and stage2 plans for {BATCH}; raise" in conflict.text


def test_ranks_of_all_machines_must_share_a_step_of_each_component_evenly() -> None:
    blend = mixture(4, 6)
    assert list(component_conflicts(STAGE, blend, GPU.model_copy(update={"ranks": 2}), "mine")) == []
    (conflict,) = component_conflicts(STAGE, blend, GPU.model_copy(update={"ranks": 2, "nodes": 2}), "mine")
    assert conflict.path == ("components", 1, "batch_size")
    assert "mine.yaml has 4 ranks, which cannot share the 6 samples of source1 evenly" in conflict.text


def test_weights_that_a_stage_trains_are_not_rounded() -> None:
    whole = STAGE.model_copy(update={"trains": [*STAGE.trains, "language_model.all"]})
    assert list(quantization_conflicts(STAGE, IN_NF4, "mine")) == []
    assert list(quantization_conflicts(whole, GPU, "mine")) == []
    (conflict,) = quantization_conflicts(whole, IN_NF4, "mine")
    assert str(conflict).startswith("infra/hardware/mine.yaml, quantize_base: stage2 trains language_model.all, and")


def test_features_are_not_cached_while_what_makes_them_is_trained() -> None:
    cached = GPU.model_copy(update={"features": "cached"})
    training = STAGE.model_copy(update={"trains": [*STAGE.trains, "vision_encoder"]})
    assert list(feature_conflicts(MODEL, STAGE, cached, "mine")) == []
    assert list(feature_conflicts(MODEL, training, GPU, "mine")) == []
    (conflict,) = feature_conflicts(MODEL, training, cached, "mine")
    assert (conflict.path, conflict.text.rpartition("; ")[2]) == (("features",), "write live")
