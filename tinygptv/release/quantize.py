"""A released model → its int8 variant, read, rounded and written tensor by tensor; never rounded again at loading."""

import logging
import shutil
from dataclasses import asdict
from pathlib import Path

from tinygptv.catalog import ResolvedRun
from tinygptv.release.card import model_card
from tinygptv.release.measure import measure
from tinygptv.store.artifacts import Manifest, Outcome, Store, artifact_name

logger = logging.getLogger(__name__)


def quantize(store: Store, run: ResolvedRun, run_name: str, export: Manifest) -> Manifest:
    """Store the linear maps of a release as int8; embeddings, norms, biases and skipped parts stay as they are."""
    definition = run.recipe.quantize.model_dump(mode="json")
    parents = [export.artifact]

    def build(draft: Path) -> Outcome:
        from tinygptv.release.folder import CARD, TOKENIZER, empty_model, read_config, save_config, save_weights
        from tinygptv.release.int8 import linears_outside, quantized_tensors

        source = store.folder(export.artifact)
        config = read_config(source)
        names = linears_outside(run.recipe.quantize.skip, empty_model(config))
        size = save_weights(draft, quantized_tensors(source, set(names)))
        save_config(draft, config.model_copy(update={"int8_linears": names}))
        shutil.copytree(source / TOKENIZER, draft / TOKENIZER, dirs_exist_ok=True)
        details = {
            "parameters": export.details["parameters"],
            "int8_linears": len(names),
            "weight_bytes": size,
            "cost": asdict(measure(draft)),
        }
        (draft / CARD).write_text(model_card(store, run, run_name, parents, details))
        logger.info("quantize %s: %d linear maps as int8, %d bytes", run_name, len(names), size)
        return Outcome(details=details)

    artifact = artifact_name(f"runs/{run_name}/int8", definition, parents)
    return store.make(artifact, "quantize", definition, parents, build)
