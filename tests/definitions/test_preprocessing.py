"""An encoder carries its preprocessing, and one that does what all did before leaves no trace in what is hashed."""

import pytest
from pydantic import ValidationError

from tinygptv import catalog
from tinygptv.definitions.preprocessing import CLIP
from tinygptv.definitions.vision_encoders.eva_vit import EvaVit


def encoder(**fields: object) -> EvaVit:
    content = catalog.recipe("tinygptv_tiny").model.vision_encoder.model_dump()
    return EvaVit.model_validate(content | fields)


def test_clips_is_the_default_and_is_not_dumped() -> None:
    assert encoder().preprocessing == CLIP
    assert "preprocessing" not in encoder().model_dump()
    assert encoder(preprocessing={"mean": CLIP.mean}).model_dump() == encoder().model_dump()


def test_another_one_is_dumped_whole_and_read_back() -> None:
    changed = encoder(preprocessing={"fit": "pad"})
    assert changed.model_dump()["preprocessing"] == CLIP.model_dump() | {"fit": "pad"}
    assert EvaVit.model_validate(changed.model_dump()) == changed


@pytest.mark.parametrize("wrong", [{"mean": [0.5]}, {"fit": "squash"}, {"interpolation": "nearest"}])
def test_what_nobody_computes_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        encoder(preprocessing=wrong)
