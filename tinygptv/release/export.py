"""The last stage → one folder that runs by itself: adapters merged, safetensors, tokenizer, model card."""

import logging
from dataclasses import asdict
from pathlib import Path

from tinygptv.catalog import ResolvedRun
from tinygptv.release.card import model_card
from tinygptv.release.measure import measure
from tinygptv.store.artifacts import Manifest, Outcome, Store, artifact_name
from tinygptv.store.locations import local_path

logger = logging.getLogger(__name__)


def export(store: Store, run: ResolvedRun, run_name: str, stage: Manifest) -> Manifest:
    """Release what the last stage of the recipe left behind; the manifest says what it weighs and costs to run."""
    last = run.recipe.stages[-1]
    definition = {"model": run.recipe.model.model_dump(mode="json"), "inputs": last.inputs.model_dump(mode="json")}
    parents = [stage.artifact]

    def build(draft: Path) -> Outcome:
        from tinygptv.data.batches.batching import load_tokenizer
        from tinygptv.models.lora import merge_lora
        from tinygptv.release.folder import CARD, TOKENIZER, ReleaseConfig, save_config, save_weights
        from tinygptv.train.assemble import load_stage_model

        model = load_stage_model(store, run.recipe, last.stage, stage)
        merge_lora(model.language_model)
        tensors = {name: tensor.detach().contiguous() for name, tensor in model.state_dict().items()}
        size = save_weights(draft, tensors)
        save_config(draft, ReleaseConfig(model=run.recipe.model, inputs=last.inputs))
        tokenizer = local_path(run.recipe.model.language_model.tokenizer)
        load_tokenizer(tokenizer).save_pretrained(draft / TOKENIZER)
        details = {
            "parameters": sum(tensor.numel() for tensor in tensors.values()),
            "weight_bytes": size,
            "cost": asdict(measure(draft)),
        }
        (draft / CARD).write_text(model_card(store, run, run_name, parents, details))
        logger.info("export %s: %d parameters, %d bytes", run_name, details["parameters"], size)
        return Outcome(details=details)

    artifact = artifact_name(f"runs/{run_name}/export", definition, parents)
    return store.make(artifact, "export", definition, parents, build)
