"""Checks of installed libraries whose wrong versions import without errors but misbehave."""

import dataclasses
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from tinygptv import catalog
from tinygptv.definitions.recipe import Schedule
from tinygptv.doctor.processes import REINSTALL
from tinygptv.errors import SetupError


def definitions_load() -> str:
    """Every YAML definition is valid."""
    loaders: dict[str, Callable[[str], Any]] = {
        "source": catalog.source,
        "filter": catalog.filter_chain,
        "mixture": catalog.mixture,
        "benchmark": catalog.benchmark,
        "recipe": catalog.recipe,
        "hardware": catalog.hardware,
    }
    definitions = [load(name) for kind, load in loaders.items() for name in catalog.names(kind)]
    return f"{len(definitions)} definitions"


def numbers_written_as_text_are_refused() -> str:
    """PyYAML reads `1e-5` as text; a schema that let it through would train with a string."""
    fields = yaml.safe_load("{warmup_lr: 1e-5, peak_lr: 1.0e-3, final_lr: 1.0e-4, warmup_steps: 1, steps: 2}")
    try:
        Schedule.model_validate(fields)
    except ValidationError:
        return "1e-5 is refused, 1.0e-5 is a number"
    if isinstance(fields["warmup_lr"], float):
        return "this YAML parser reads 1e-5 as a number"
    raise SetupError("a learning rate given as text was accepted; the schemas are not strict with this pydantic")


def dataclasses_are_the_standard_library() -> str:
    """img2dataset depends on an obsolete backport that breaks Prefect's server."""
    backport = Path(sysconfig.get_path("purelib")) / "dataclasses.py"
    if backport.exists() or Path(dataclasses.__file__).parent != Path(sysconfig.get_path("stdlib")):
        raise SetupError(f"{backport} shadows the standard library; run `pip uninstall dataclasses`")
    return dataclasses.__file__


def masks_reach_the_qformer() -> str:
    """A masked token must have no effect. transformers misreads boolean 4-D masks, so ours are additive."""
    import torch
    from transformers import Blip2QFormerConfig, Blip2QFormerModel

    config = Blip2QFormerConfig(
        num_hidden_layers=1, hidden_size=16, num_attention_heads=2, intermediate_size=32, encoder_hidden_size=16
    )
    qformer = Blip2QFormerModel(config).eval()
    tokens, image_features = torch.randn(1, 4, 16), torch.randn(1, 5, 16)
    mask = torch.zeros(1, 1, 4, 4)
    mask[..., -1] = torch.finfo(mask.dtype).min
    with torch.no_grad():
        masked = qformer(tokens, 4, attention_mask=mask, encoder_hidden_states=image_features)[0][:, :3]
        dropped = qformer(tokens[:, :3], 3, encoder_hidden_states=image_features)[0]
    if not torch.allclose(masked, dropped, atol=1e-5):
        raise SetupError(f"a masked token still changes the Q-Former's output with this transformers; {REINSTALL}")
    return "masked tokens have no effect"


def vision_initialisation_is_overridden() -> str:
    """Blip2VisionConfig initialises weights at 1e-10, with which nothing can be learned; ours must not."""
    from tinygptv.models.vision_encoders.eva_vit import EvaVit, vision_config

    encoder = EvaVit(
        vision_config(
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=32,
            patch_size=8,
            image_size=16,
        )
    )
    spread = min(p.std().item() for name, p in encoder.named_parameters() if name.endswith("weight") and p.dim() > 1)
    if spread < 1e-3:
        raise SetupError(f"vision weights are initialised with a standard deviation of {spread:.0e}, as in the library")
    return f"initial standard deviation at least {spread:.3f}"
