"""A run's manifests sorted by what they are, so that the parts of the report can ask for them by name."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from tinygptv.definitions.recipe import Recipe
from tinygptv.store.artifacts import Manifest

EXPORT, QUANTIZED = "export", "int8"


@dataclass(frozen=True)
class RunArtifacts:
    """What a run left behind; parts that are not there are None or empty. Scores are in the order they were given."""

    raw: Manifest | None = None
    filtered: Manifest | None = None
    mixtures: dict[str, Manifest] = field(default_factory=dict)
    stages: dict[str, Manifest] = field(default_factory=dict)
    export: Manifest | None = None
    quantized: Manifest | None = None
    scores: list[Manifest] = field(default_factory=list)
    gates: list[Manifest] = field(default_factory=list)

    def released(self) -> str | None:
        """The name of the model the report is about: the export, or the last stage that has scores."""
        models = [str(one.details["model"]) for one in self.scores]
        return EXPORT if EXPORT in models else next(reversed(models), None)

    def score(self, model: str | None, benchmark: str, noise: bool = False) -> Manifest | None:
        """The scores of one model on one benchmark, if it was evaluated."""
        wanted = (model, benchmark, noise)
        found = (s for s in self.scores if (s.details["model"], s.details["benchmark"], s.details["noise"]) == wanted)
        return next(found, None)


def sort_artifacts(recipe: Recipe, manifests: Iterable[Manifest]) -> RunArtifacts:
    """Tell manifests apart by their artifacts' places: `raw/…`, `mixtures/<name>@…`, `runs/<run>/<what>@…`."""
    single: dict[str, Manifest] = {}
    mixtures, stages, scores, gates = {}, {}, [], []
    stage_names = {stage.stage for stage in recipe.stages}
    for manifest in manifests:
        folder, _, last = manifest.artifact.rpartition("/")
        name = last.rpartition("@")[0]
        if folder == "mixtures":
            mixtures[name] = manifest
        elif folder in ("raw", "filtered"):
            single[folder] = manifest
        elif name in stage_names:
            stages[name] = manifest
        elif name.startswith("scores-"):
            scores.append(manifest)
        elif name.startswith("gate-"):
            gates.append(manifest)
        else:
            single[name] = manifest
    return RunArtifacts(
        raw=single.get("raw"),
        filtered=single.get("filtered"),
        mixtures=mixtures,
        stages=stages,
        export=single.get(EXPORT),
        quantized=single.get(QUANTIZED),
        scores=scores,
        gates=gates,
    )
