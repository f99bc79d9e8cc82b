"""Which features a stage needs, named by a hash of all that decides them, so that training never uses others. No torch.

The parts that a stage keeps frozen in front of what it trains (its `frozen_prefix`) learn nothing, and images are never
changed at random: each step would compute the same.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinygptv.catalog import ResolvedRun
from tinygptv.data.forget.tombstones import tombstones
from tinygptv.data.pictures.pixels import transform
from tinygptv.definitions.base import LOCATION_PREFIXES
from tinygptv.definitions.parts import ConnectorPart
from tinygptv.definitions.reasons import FORGOTTEN
from tinygptv.definitions.recipe import Recipe, Stage
from tinygptv.errors import DefinitionError, HandoffError
from tinygptv.loading.checks import feature_conflicts
from tinygptv.store.artifacts import Manifest, Store, artifact_name, fingerprint
from tinygptv.store.locations import local_path
from tinygptv.train.lineage import content_hash, differences, lineage, prefix_was_trained

_LAYOUT = 1  # of the artifact; raise it when its files change


@dataclass(frozen=True)
class FeaturesPlan:
    """What will be made and from what; `masked` marks the rows of the mixture's table that are to be forgotten."""

    artifact: str
    definition: dict[str, Any]
    parents: list[str]
    masked: NDArray[np.bool_] | None = field(default=None, compare=False)


def plan_features(
    store: Store, run: ResolvedRun, stage_name: str, mixture: Manifest, previous: Manifest | None
) -> FeaturesPlan:
    """Name the features of a stage's images by everything that decides their values.

    `previous` is what the stage starts from; it counts only if it holds trained weights of those parts. Raises
    DefinitionError if this very stage trains the vision encoder.
    """
    recipe, stage = run.recipe, run.recipe.stage(stage_name)
    for conflict in feature_conflicts(recipe.model, stage, run.hardware, run.hardware_name):
        raise DefinitionError(str(conflict))
    frozen_parts = stage.frozen_connector(recipe.model)
    definition: dict[str, Any] = {
        "layout": _LAYOUT,
        "weights": _weight_hashes(recipe, stage),
        "vision_encoder": recipe.model.vision_encoder.model_dump(exclude={*recipe.model.vision_encoder.file_fields}),
        "connector": [part.model_dump(exclude={"weights"}) for part in frozen_parts],
        "transform": transform(
            stage.inputs.image_size, stage.inputs.decoding, recipe.model.vision_encoder.preprocessing
        ),
        "precision": run.hardware.precision,
    }
    if any(_begins_at_random(part) for part in frozen_parts):
        definition["seed"] = recipe.seed
    masked = _masked(store, mixture)
    if masked is not None:
        definition[FORGOTTEN] = fingerprint(np.flatnonzero(masked).tolist())
    parents = [mixture.artifact]
    if previous is not None and prefix_was_trained(recipe, stage):
        parents.append(previous.artifact)
    name = mixture.artifact.partition("/")[2].partition("@")[0]
    return FeaturesPlan(artifact_name(f"features/{name}", definition, parents), definition, parents, masked)


def refuse_other_features(features: Manifest | None, plan: FeaturesPlan) -> None:
    """Raise HandoffError, naming what differs, unless these are the features that were planned."""
    if features is None:
        raise HandoffError(f"{plan.artifact} is needed by `features: cached`, but no features were given; run `encode`")
    if features.artifact != plan.artifact:
        found, wanted = ({"parents": made.parents} | made.definition for made in (features, plan))
        raise HandoffError(
            f"{features.artifact} holds different features than the stage would compute: "
            f"{'; '.join(differences(found, wanted))}. Run `encode` again, or write `features: live`"
        )


def published_start(recipe: Recipe, stage: Stage) -> str | None:
    """The published checkpoint that a stage, or the first one it builds on, starts from: it may hold a Q-Former."""
    first = [*lineage(recipe, stage), stage][0]
    return first.starts_from if first.starts_from.startswith(LOCATION_PREFIXES) else None


def _begins_at_random(part: ConnectorPart) -> bool:
    """Whether a part has weights and no file that they are read from."""
    return part.file is None and part.initialization is not None


def _weight_hashes(recipe: Recipe, stage: Stage) -> dict[str, str]:
    """Content hashes of the files that the frozen parts are read from."""
    files: dict[str, str | None] = dict(recipe.model.vision_encoder.files)
    files["vision_encoder"] = files.pop("weights")
    for number, part in enumerate(stage.frozen_connector(recipe.model)):
        files[f"connector.{number}"] = part.file
    files["starts_from"] = published_start(recipe, stage)
    return {name: content_hash(local_path(location)) for name, location in files.items() if location is not None}


def _masked(store: Store, mixture: Manifest) -> NDArray[np.bool_] | None:
    """Which rows of a finished mixture are to be forgotten; None if there are none."""
    wanted = tombstones(store)
    if not wanted or store.find(mixture.artifact) is None:
        return None
    from tinygptv.data.forget.forget import masked_rows
    from tinygptv.data.mixtures.mixing import SAMPLES

    masked = masked_rows(store, mixture.artifact, store.file(mixture.artifact, SAMPLES), wanted)
    return masked if masked.any() else None


def outdated(store: Store, plan: FeaturesPlan) -> list[str]:
    """Artifacts that differ only in still holding what has been forgotten since."""

    def known(definition: dict[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in definition.items() if name != FORGOTTEN}

    if plan.masked is None:
        return []
    others = (store.find(name) for name in store.names(plan.artifact.partition("@")[0] + "@"))
    wanted = plan.parents, known(plan.definition)
    return [one.artifact for one in others if one and (one.parents, known(one.definition)) == wanted]
