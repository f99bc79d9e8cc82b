"""The phases in order, what each leaves behind, and how the result can be traced and repeated."""

import hashlib
import json
import platform
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib.metadata import version
from logging import getLogger
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import PreTrainedConfig

from tinygptv.errors import DefinitionError, HandoffError, did_you_mean
from tinygptv.shapes.bootstrap import probes
from tinygptv.shapes.bootstrap.corpus import pixel_values
from tinygptv.shapes.bootstrap.language import LanguagePretraining
from tinygptv.shapes.bootstrap.loop import Step, train
from tinygptv.shapes.bootstrap.qformer import QFormerPretraining
from tinygptv.shapes.bootstrap.settings import Phase, Settings
from tinygptv.shapes.bootstrap.tokenizer import load_tokenizer, train_tokenizer
from tinygptv.shapes.bootstrap.tower import TowerPretraining
from tinygptv.shapes.scenes import scene

logger = getLogger(__name__)

PHASES = ("tokenizer", "tower", "qformer", "language")
PROVENANCE = "provenance.json"
TOKENIZER_TEXTS = 6000
_RECORDED_LOSSES = 5
_DATA_SAMPLE = 64


@dataclass(frozen=True)
class Training:
    """A phase ready to run: what it trains, its step, how to write its files, and its held-out scores."""

    module: nn.Module
    phase: Phase
    step: Callable[[int], Step]
    write: Callable[[Path], None]
    scores: Callable[[], dict[str, float]]


def run(output: Path, phases: Iterable[str] = PHASES, settings: Settings | None = None) -> None:
    """Train the named phases into `output`, skipping those that its provenance records as finished.

    `language` needs only the tokenizer, so it can run in a second process beside `tower` and `qformer`. Single-threaded
    on purpose: the recorded losses then repeat on other machines. Raises DefinitionError for an unknown phase and
    HandoffError when a phase that must come first is missing.
    """
    settings = settings or Settings()
    for name in phases:
        if name not in PHASES:
            raise DefinitionError(f"bootstrap has no phase '{name}'. {did_you_mean(name, PHASES)}")
        if name in provenance(output):
            logger.info("bootstrap %s: finished before, in %s", name, output)
        elif name == "tokenizer":
            output.mkdir(parents=True, exist_ok=True)
            train_tokenizer(settings.vocabulary, TOKENIZER_TEXTS).save_pretrained(output / "tokenizer")
            entry = {"vocabulary": settings.vocabulary, "texts": TOKENIZER_TEXTS}
            _record(output, name, entry, [path.relative_to(output) for path in (output / "tokenizer").iterdir()])
        else:
            _train(output, name, settings)


def first_losses(output: Path, name: str, steps: int, settings: Settings | None = None) -> list[float]:
    """The first losses of a phase, repeated from its seed and the files of `output` that it starts from."""
    training = prepare(output, name, settings or Settings())
    return train(name, training.module.parameters(), replace(training.phase, steps=steps), training.step)


def prepare(output: Path, name: str, settings: Settings) -> Training:
    """Build a phase from its seed and from the finished phases it stands on."""
    torch.set_num_threads(1)
    needs = {"tower": (), "qformer": ("tokenizer", "tower"), "language": ("tokenizer",)}[name]
    if missing := [need for need in needs if need not in provenance(output)]:
        raise HandoffError(f"{output} holds no finished {' and '.join(missing)}, which bootstrap {name} starts from")
    phase: Phase = getattr(settings, name)
    torch.manual_seed(phase.seed)
    if name == "tower":
        tower = TowerPretraining(settings)
        return Training(tower, phase, tower.step, partial(_write_tower, tower), partial(probes.tower, tower))
    if name == "qformer":
        reader = QFormerPretraining(settings, output, load_tokenizer(output))
        return Training(reader, phase, reader.step, partial(_write_qformer, reader), partial(probes.qformer, reader))
    speaker = LanguagePretraining(settings, load_tokenizer(output))
    return Training(speaker, phase, speaker.step, partial(_write_language, speaker), partial(probes.language, speaker))


def provenance(output: Path) -> dict[str, Any]:
    """What has been finished in `output`, by phase."""
    path = output / PROVENANCE
    return json.loads(path.read_text()) if path.exists() else {}


def data_hash() -> str:
    """A hash of the first scenes and their pixels: it changes when the world or its drawing does."""
    scenes = [scene("pretrain", index) for index in range(_DATA_SAMPLE)]
    digest = hashlib.sha256(repr([picture.objects for picture in scenes]).encode())
    digest.update((pixel_values(scenes, 48) * 1000).short().numpy().tobytes())
    return digest.hexdigest()


def _train(output: Path, name: str, settings: Settings) -> None:
    training = prepare(output, name, settings)
    draft = output / f"{name}.draft"
    begun = time.monotonic()

    def checkpoint(steps: int) -> None:
        training.module.eval()
        with torch.no_grad(), torch.random.fork_rng():  # looking must not change what follows
            scores = training.scores()
        training.module.train()
        draft.mkdir(parents=True, exist_ok=True)
        training.write(draft)
        (draft / "scores.json").write_text(json.dumps({"steps": steps} | scores))
        logger.info("bootstrap %s after %d steps, held out: %s", name, steps, scores)

    losses = train(name, training.module.parameters(), training.phase, training.step, checkpoint)
    scores = json.loads((draft / "scores.json").read_text())
    (draft / "scores.json").unlink()
    files = [path.replace(output / path.name).relative_to(output) for path in sorted(draft.iterdir())]
    draft.rmdir()
    entry = {
        "hyperparameters": asdict(training.phase),
        "sizes": {field: value for field, value in asdict(settings).items() if field not in PHASES},
        "first_losses": losses[:_RECORDED_LOSSES],
        "last_loss": sum(losses[-50:]) / len(losses[-50:]),
        "heldout": scores,
        "seconds": round(time.monotonic() - begun),
    }
    _record(output, name, entry, files)


def _record(output: Path, name: str, entry: dict[str, Any], files: Iterable[Path]) -> None:
    """Add a finished phase to the provenance, last of all: its presence there means that its files are complete."""
    hashes = {str(file): hashlib.sha256((output / file).read_bytes()).hexdigest() for file in sorted(files)}
    libraries = {library: version(library) for library in ("torch", "transformers", "tokenizers", "numpy", "pillow")}
    made_with = {"command": f"tinygptv bootstrap --phase {name}", "data": data_hash()}
    made_with |= {"python": platform.python_version()} | libraries
    path = output / PROVENANCE
    draft = path.with_suffix(".draft")
    draft.write_text(
        json.dumps(provenance(output) | {name: entry | {"files": hashes, "made_with": made_with}}, indent=1) + "\n"
    )
    draft.replace(path)


def _write_tower(tower: TowerPretraining, folder: Path) -> None:
    _save(tower.encoder.model.state_dict(), folder / "vision_encoder.safetensors")
    _save_config(tower.encoder.config, folder / "vision_encoder.json")


def _write_qformer(reader: QFormerPretraining, folder: Path) -> None:
    _save(reader.qformer.query_path(), folder / "qformer.safetensors")
    _save(reader.qformer.text_side(), folder / "qformer_text.safetensors")
    extra = {"query_tokens": reader.qformer.query_tokens.shape[1]}
    _save_config(reader.qformer.config, folder / "qformer.json", extra)


def _write_language(speaker: LanguagePretraining, folder: Path) -> None:
    _save(speaker.phi.state_dict(), folder / "language_model.safetensors")
    _save_config(speaker.phi.config, folder / "language_model.json")


def _save(tensors: dict[str, Tensor], path: Path) -> None:
    # Half precision: the frozen parts of the real recipe are published like that, and it halves the package.
    save_file({name: tensor.detach().half().contiguous() for name, tensor in tensors.items()}, path)


def _save_config(config: PreTrainedConfig, path: Path, extra: dict[str, Any] | None = None) -> None:
    fields = config.to_diff_dict() | (extra or {})
    path.write_text(json.dumps(fields, indent=1, sort_keys=True) + "\n")
