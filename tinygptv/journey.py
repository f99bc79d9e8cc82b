"""The journey as a list of arrows: what a run does, in which order, and which of it is already done.

    source → raw shards → filtered shards → mixtures → stage 1 · 2 · 3 · 4 → export → quantized → scores → report

Optional arrows: a source whose filter names a scorer has its raw pairs scored first; with `features: cached` in the
hardware profile, the features of a stage's images are computed first; a stage with gates is evaluated on a few held-out
questions before the next stage begins.

This module alone knows the order. The command line follows it in one process (`train_all`); the flows wrap the same
arrows in subflows and tasks. An arrow takes no parents as arguments but finds their artifacts in the store, so any of
them can run alone, in another process, on another day.
"""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, assert_never

from tinygptv.catalog import ResolvedRun, resolve_run
from tinygptv.definitions.mixture import RUN_SOURCE
from tinygptv.definitions.recipe import Stage
from tinygptv.errors import DataError, DefinitionError, TinyGPTVError, did_you_mean
from tinygptv.store.artifacts import Manifest, Store
from tinygptv.store.reading import ReadingStore

logger = logging.getLogger(__name__)

Verb = Literal[
    "download", "score", "filter", "mix", "encode", "train", "gate", "export", "quantize", "evaluate", "report"
]

OnLine = Callable[[str], None]
"""What gets each line that a training process prints."""

RUN, RECIPE, SOURCE, HARDWARE, WORKDIR = "first", "tinygptv_tiny", "shapes", "cpu", "work"
"""What a command or flow without parameters uses. The run's name is fixed, so that the same command continues it."""

EXPORT, QUANTIZED = "export", "int8"
"""Names of the released models in `scores-<model>-<benchmark>`, next to the stages' names."""


@dataclass(frozen=True)
class Arrow:
    """One step that leaves one artifact: a verb and what it is applied to.

    `subject` names a source, mixture, stage, model or run. Evaluations and gates also name their `benchmark`; with
    `noise`, noise replaces the images, to measure what the model can answer without seeing.
    """

    verb: Verb
    subject: str
    benchmark: str = ""
    noise: bool = False

    def __str__(self) -> str:
        on = f" on {self.benchmark}" if self.benchmark else ""
        return f"{self.verb} {self.subject}{on}{' (noise)' if self.noise else ''}"


class Journey:
    """One run: its store, its resolved definitions, its name, and the arrows between its source and its report."""

    def __init__(self, store: Store, run: ResolvedRun, name: str) -> None:
        self.store = store
        self.run = run
        self.name = name
        self._encodes = run.hardware.features == "cached"
        self._found: dict[Arrow, Manifest] = {}

    def arrows(self, *verbs: Verb) -> list[Arrow]:
        """All arrows in order, or only those of the given verbs."""
        recipe = self.run.recipe
        last = recipe.stages[-1].stage
        models = [*(stage.stage for stage in recipe.stages), EXPORT, QUANTIZED]
        every = [
            Arrow("download", self.run.source_name),
            *([Arrow("score", self.run.source_name)] if self.run.filter.scores else []),
            Arrow("filter", self.run.source_name),
            *(Arrow("mix", mixture) for mixture in self.run.mixtures),
            *(arrow for stage in recipe.stages for arrow in self._stage_arrows(stage)),
            Arrow("export", last),
            Arrow("quantize", QUANTIZED),
            *(Arrow("evaluate", model, benchmark) for model in models for benchmark in recipe.benchmarks),
            *(Arrow("evaluate", EXPORT, benchmark, noise=True) for benchmark in recipe.benchmarks),
            Arrow("report", self.name),
        ]
        return [arrow for arrow in every if not verbs or arrow.verb in verbs]

    def arrow(self, verb: Verb, subject: str) -> Arrow:
        """The arrow of this run with that subject. Raises DefinitionError if the run has none."""
        known = {arrow.subject: arrow for arrow in self.arrows(verb)}
        if subject not in known:
            raise DefinitionError(
                f"{verb} '{subject}': recipe '{self.run.recipe_name}' has no such thing. {did_you_mean(subject, known)}"
            )
        return known[subject]

    def make(self, arrow: Arrow, on_line: OnLine | None = None) -> Manifest:
        """Follow one arrow, or find its artifact. Raises DataError if an earlier artifact is missing.

        `on_line` gets each line that a training process prints.
        """
        manifest = self._follow(arrow, self.store, on_line)
        self._keep(arrow, manifest)
        return manifest

    def find(self, arrow: Arrow) -> Manifest:
        """The artifact of a finished arrow. Raises DataError if it is not finished."""

        def missing(artifact: str, definition: dict[str, Any], parents: list[str]) -> Manifest:
            raise DataError(
                f"{self.store.workdir}/{artifact} is needed and not there: first run "
                f"`{'train' if arrow.verb == 'gate' else arrow.verb}` for {arrow.subject}, with the same parameters"
                f"{_differing(self.store, artifact, definition, parents)}"
            )

        if arrow not in self._found:
            self._keep(arrow, self._follow(arrow, ReadingStore(self.store.workdir, missing)))
        return self._found[arrow]

    def _keep(self, arrow: Arrow, manifest: Manifest) -> None:
        """Remember an arrow's artifact; the first time, also record which data the run uses."""
        self._found[arrow] = manifest
        if arrow.verb == "download":
            from tinygptv.data.versions.versions import pin

            pin(self.store, self.name, self.run.source_name, manifest, self._originals())

    def _follow(self, arrow: Arrow, store: Store, on_line: OnLine | None = None) -> Manifest:
        """Call the function of an arrow. Each imports what it needs, so that planning needs no torch."""
        match arrow.verb:
            case "download":
                made = self._download(store)
            case "score":
                made = self._score(store)
            case "filter":
                made = self._filter(store)
            case "mix":
                made = self._mix(arrow.subject, store)
            case "encode":
                made = self._encode(arrow.subject, store, on_line)
            case "train":
                made = self._train(arrow.subject, store, on_line)
            case "gate":
                made = self._gate(arrow, store)
            case "export":
                made = self._export(store)
            case "quantize":
                made = self._quantize(store)
            case "evaluate":
                made = self._evaluate(arrow, store)
            case "report":
                made = self._report(store)
            case _:
                assert_never(arrow.verb)
        return made

    def _download(self, store: Store) -> Manifest:
        from tinygptv.data.download.download import download
        from tinygptv.data.versions.versions import chosen

        self._originals()  # missing ones are refused now, not after the download
        source_name, source = self.run.source_name, self.run.source
        version = chosen(store, self.name, source_name, source)
        published = store.find(version.raw) if version else None
        return published or download(store, source_name, source)

    def _score(self, store: Store) -> Manifest:
        from tinygptv.judging.arrow import score_source

        return score_source(store, self.run.source_name, self.run.filter, self._raw())

    def _filter(self, store: Store) -> Manifest:
        from tinygptv.data.filters.filtering import filter_source

        return filter_source(
            store,
            self.run.source_name,
            self.run.source.filter,
            self._raw(),
            self._known_tombstones(),
            benchmarks=self.run.benchmark_sources,
            earlier=list(self._originals().values()),
            scores=self.scores(),
        )

    def _mix(self, mixture: str, store: Store) -> Manifest:
        from tinygptv.data.mixtures.mixing import mix

        return mix(store, mixture, self._pairs_of(mixture), self._known_tombstones())

    def _encode(self, stage_name: str, store: Store, on_line: OnLine | None) -> Manifest:
        from tinygptv.train.encoding.encode import encode

        return encode(store, self.run, stage_name, *self.encoded(stage_name), on_line)

    def _train(self, stage_name: str, store: Store, on_line: OnLine | None) -> Manifest:
        from tinygptv.evaluate.scores import unload
        from tinygptv.train.stage import train_stage

        mixture = self.find(Arrow("mix", self.run.recipe.stage(stage_name).mixture))
        previous = self._previous_stage(stage_name)
        features = self.find(Arrow("encode", stage_name)) if self._encodes else None
        unload()

        def check() -> Manifest:
            from tinygptv.data.batches.usable import summary_lines

            checked = self.usable(stage_name)
            if on_line:
                for line in (*self.shares(stage_name), *(f"  {line}" for line in summary_lines(checked))):
                    on_line(line)
            return checked

        return train_stage(store, self.run, self.name, stage_name, mixture, previous, None, on_line, features, check)

    def _gate(self, arrow: Arrow, store: Store) -> Manifest:
        from tinygptv.evaluate.gates import pass_gate

        gates = self.run.recipe.stage(arrow.subject).gates
        gate = next(gate for gate in gates if gate.benchmark == arrow.benchmark)
        trained = self.find(Arrow("train", arrow.subject))
        return pass_gate(store, self.run, self.name, arrow.subject, trained, gate)

    def _export(self, store: Store) -> Manifest:
        from tinygptv.release.export import export

        return export(store, self.run, self.name, self.find(self.arrows("train")[-1]))

    def _quantize(self, store: Store) -> Manifest:
        from tinygptv.release.quantize import quantize

        return quantize(store, self.run, self.name, self.find(self.arrows("export")[0]))

    def _evaluate(self, arrow: Arrow, store: Store) -> Manifest:
        from tinygptv.evaluate.scores import evaluate

        model = self._model(arrow.subject)
        return evaluate(store, self.run, self.name, arrow.subject, model, arrow.benchmark, noise=arrow.noise)

    def _report(self, store: Store) -> Manifest:
        from tinygptv.report.report import report

        return report(store, self.run, self.name, [self.find(one) for one in self.arrows() if one.verb != "report"])

    def _raw(self) -> Manifest:
        return self.find(Arrow("download", self.run.source_name))

    def usable(self, stage_name: str) -> Manifest:
        """Which samples of its finished mixture a stage can learn from; see `data.batches.usable`."""
        from tinygptv.data.batches.usable import check

        stage = self.run.recipe.stage(stage_name)
        mixture = self.find(Arrow("mix", stage.mixture))
        return check(self.store, mixture.artifact, stage.inputs, self.run.recipe.model)

    def longest_sequence(self, stage_name: str) -> int:
        """Tokens of the longest sequence that a stage draws; 0 if its mixture was not made and checked yet."""
        checked = self._checked(self.run.recipe.stage(stage_name))
        return int(checked.details["longest_sequence"]) if checked else 0

    def _checked(self, stage: Stage) -> Manifest | None:
        """The result of `usable` for a stage; None if it was not checked yet, or cannot be."""
        from tinygptv.data.batches.usable import find_checked

        try:
            mixture = self.find(Arrow("mix", stage.mixture))
            return find_checked(self.store, mixture.artifact, stage.inputs, self.run.recipe.model)
        except TinyGPTVError:
            return None

    def encoded(self, stage_name: str) -> tuple[Manifest, Manifest | None]:
        """What `encode` reads for a stage: its mixture, and the stage before it if features depend on that."""
        from tinygptv.train.lineage import prefix_was_trained

        recipe = self.run.recipe
        stage = recipe.stage(stage_name)
        previous = self._previous_stage(stage_name) if prefix_was_trained(recipe, stage) else None
        return self.find(Arrow("mix", stage.mixture)), previous

    def scores(self) -> Manifest | None:
        """The scores of the source's pairs; None if its filter names no scorer. Raises DataError if not scored yet."""
        return self.find(Arrow("score", self.run.source_name)) if self.run.filter.scores else None

    def shares(self, stage_name: str) -> Iterator[str]:
        """How a stage draws from its finished mixture, as text: shares, and how often each sample is drawn."""
        from tinygptv.data.mixtures.sampling_order import order_seed
        from tinygptv.data.mixtures.shares import shares_table
        from tinygptv.train.schedule import total_steps

        stage = self.run.recipe.stage(stage_name)
        steps, batch = total_steps(stage.schedule), stage.global_batch_size
        made, checked = self.find(Arrow("mix", stage.mixture)).details["components"], self._checked(stage)
        sizes = checked.details["samples"] if checked else [component["samples"] for component in made]
        mixture, seed = self.run.mixtures[stage.mixture], order_seed(self.run.recipe.seed, stage_name)
        yield f"{stage_name}: {stage.mixture}, {steps} steps of {batch}"
        yield from (f"  {line}" for line in shares_table(mixture, sizes, seed, steps, batch))

    def _known_tombstones(self) -> int | None:
        """The number of tombstones when this run began. Later ones mask its data; nothing is made again for them."""
        from tinygptv.data.versions.versions import pinned

        pin = pinned(self.store, self.name, self.run.source_name)
        return None if pin is None else pin.tombstones

    def _originals(self) -> dict[str, Manifest]:
        """The versions whose pictures the source must not repeat, by reference, as of the beginning of the run."""
        from tinygptv.data.versions.versions import originals, pinned

        source_name = self.run.source_name
        return originals(self.store, source_name, self.run.source, pinned(self.store, self.name, source_name))

    def _pairs_of(self, mixture: str) -> Manifest | None:
        """The filtered pairs a mixture draws on, or None if it uses annotations only."""
        if any(component.source == RUN_SOURCE for component in self.run.mixtures[mixture].components):
            return self.find(Arrow("filter", self.run.source_name))
        return None

    def _previous_stage(self, stage: str) -> Manifest | None:
        """The stage handed to this one, or None if it starts from the backbones or a published checkpoint.

        Raises GateError if one of its gates says stop.
        """
        start = self.run.recipe.stage(stage).starts_from
        if not any(start == other.stage for other in self.run.recipe.stages):
            return None
        for gate in self.run.recipe.stage(start).gates:
            self.find(Arrow("gate", start, gate.benchmark))
        return self.find(Arrow("train", start))

    def _stage_arrows(self, stage: Stage) -> list[Arrow]:
        encoding = [Arrow("encode", stage.stage)] if self._encodes else []
        gates = [Arrow("gate", stage.stage, gate.benchmark) for gate in stage.gates]
        return [*encoding, Arrow("train", stage.stage), *gates]

    def _model(self, name: str) -> Manifest:
        if name == EXPORT:
            return self.find(self.arrows("export")[0])
        return self.find(Arrow("quantize", name) if name == QUANTIZED else Arrow("train", name))


def open_journey(
    run: str = RUN, recipe: str = RECIPE, source: str = SOURCE, hardware: str = HARDWARE, workdir: str = WORKDIR
) -> Journey:
    """Check every parameter and every definition behind it. Raises DefinitionError before anything starts."""
    if not run or not all(letter.isalnum() or letter in "-_." for letter in run) or run.startswith("."):
        raise DefinitionError(f"run '{run}': a run's name has letters, digits, '-', '_' and '.' only; choose another")
    return Journey(Store(workdir), resolve_run(recipe, source, hardware), run)


def train_all(journey: Journey, on_line: OnLine | None = None) -> Manifest:
    """Follow every arrow in order; finished ones are recognised. Returns the report's manifest."""
    for arrow in journey.arrows():
        manifest = journey.make(arrow, on_line)
        logger.info("%s: %s", arrow, summary(manifest))
    return manifest


def summary(manifest: Manifest) -> str:
    """One line about what an artifact holds: rows kept and dropped by reason, and the seconds it took."""
    kept = f"kept {manifest.rows_out} of {manifest.rows_in}" if manifest.rows_in else "done"
    drops = ", ".join(f"{reason} {count}" for reason, count in manifest.drops.items() if count)
    return f"{kept}{f' ({drops})' if drops else ''}, {manifest.seconds:.0f} s"


def _differing(store: Store, artifact: str, definition: dict[str, Any], parents: list[str]) -> str:
    """How the newest artifact of the same name differs, as the end of a sentence; empty if there is none."""
    others = [found for name in store.names(artifact.rpartition("@")[0] + "@") if (found := store.find(name))]
    if not others:
        return ""
    from tinygptv.train.lineage import differences

    newest = max(others, key=lambda other: other.created)
    fields = differences(newest.definition | {"parents": newest.parents}, definition | {"parents": parents})
    return f". {newest.artifact} is another: {'; '.join(fields)}"
