"""The journey as a list of arrows: what a run does, in which order, and which of it is already done.

    source → raw shards → filtered shards → mixtures → stage 1 · 2 · 3 · 4 → export → quantized → scores → report

A stage with gates is asked a few held-out questions before the next one begins.

A source whose filter names a scorer has its raw pairs scored before they are filtered.

With `features: cached` in the hardware profile, each stage has the features of its images computed first.

This is the one place that knows the order. The command line walks the list in one process (`train_all`); the flows wrap
the same arrows in subflows and tasks. An arrow never takes its parents as arguments: it finds what the arrows before it
left in the store, so any of them can run alone, in another process, on another day.
"""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from tinygptv.catalog import ResolvedRun, resolve_run
from tinygptv.definitions.mixture import RUN_SOURCE
from tinygptv.definitions.recipe import Stage
from tinygptv.errors import DataError, DefinitionError, GateError, TinyGPTVError, did_you_mean
from tinygptv.store.artifacts import Manifest, Outcome, Store

logger = logging.getLogger(__name__)

Verb = Literal[
    "download", "score", "filter", "mix", "encode", "train", "gate", "export", "quantize", "evaluate", "report"
]

RUN, RECIPE, SOURCE, HARDWARE, WORKDIR = "first", "tinygptv_tiny", "shapes", "cpu", "work"
"""What a command or flow without parameters uses. The run's name is fixed, so that the same command continues it."""

EXPORT, QUANTIZED = "export", "int8"
"""Model names of the release, beside the stage names, in `scores-<model>-<benchmark>`."""


@dataclass(frozen=True)
class Arrow:
    """One step that leaves one artifact: a verb and what it is applied to.

    `subject` is a source, mixture, stage, model or run name. Evaluations and gates also name their `benchmark`; with
    `noise` the images are replaced by noise, which shows what the model can answer without looking.
    """

    verb: Verb
    subject: str
    benchmark: str = ""
    noise: bool = False

    def __str__(self) -> str:
        on = f" on {self.benchmark}" if self.benchmark else ""
        return f"{self.verb} {self.subject}{on}{' (noise)' if self.noise else ''}"


@dataclass(frozen=True)
class Planned:
    """What would happen to one arrow: reuse, resume, run or, at a gate, stop; `why` says what that rests on."""

    arrow: Arrow
    artifact: str
    action: Literal["reuse", "resume", "run", "stop"]
    why: str


class ReadingStore(Store):
    """A store that makes nothing: what is absent is left to `missing`, which gets its name, definition and parents."""

    def __init__(self, workdir: str, missing: Callable[[str, dict[str, Any], list[str]], Manifest]) -> None:
        super().__init__(workdir)
        self._missing = missing

    def make(
        self,
        artifact: str,
        made_by: str,
        definition: dict[str, Any],
        parents: list[str],
        build: Callable[..., Outcome],
    ) -> Manifest:
        """The manifest if the artifact is complete, else whatever `missing` answers; never builds."""
        return self.find(artifact) or self._missing(artifact, definition, parents)

    def update(self, document: str, change: Callable[[str | None], str]) -> None:
        """Leave the document as it is."""


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

    def make(self, arrow: Arrow, on_line: Callable[[str], None] | None = None) -> Manifest:
        """Follow one arrow, or recognise that it has been followed. Raises DataError if an earlier one is missing.

        `on_line` gets each line that a training process prints.
        """
        manifest = self._follow(arrow, self.store, on_line)
        self._keep(arrow, manifest)
        return manifest

    def find(self, arrow: Arrow) -> Manifest:
        """What a finished arrow left behind. Raises DataError if it is not finished."""

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
        """Remember what an arrow left; the first time a run meets its data, write down which they are."""
        self._found[arrow] = manifest
        if arrow.verb == "download":
            from tinygptv.data.versions.versions import pin

            pin(self.store, self.name, self.run.source_name, manifest, self._originals())

    def _follow(self, arrow: Arrow, store: Store, on_line: Callable[[str], None] | None = None) -> Manifest:
        """Call the library function behind an arrow. Imports are here so that planning needs none of the heavy ones."""
        run = self.run
        match arrow.verb:
            case "download":
                from tinygptv.data.download.download import download
                from tinygptv.data.versions.versions import chosen

                self._originals()  # refused now if they are not there, and not after the download
                version = chosen(store, self.name, run.source_name, run.source)
                published = store.find(version.raw) if version else None
                made = published or download(store, run.source_name, run.source)
            case "score":
                from tinygptv.judging.arrow import score_source

                made = score_source(store, run.source_name, run.filter, self.find(Arrow("download", run.source_name)))
            case "filter":
                from tinygptv.data.filters.filtering import filter_source

                made = filter_source(
                    store,
                    run.source_name,
                    run.source.filter,
                    self.find(Arrow("download", run.source_name)),
                    self._known_tombstones(),
                    benchmarks=run.benchmark_sources,
                    earlier=list(self._originals().values()),
                    scores=self.scores(),
                )
            case "mix":
                from tinygptv.data.mixtures.mixing import mix

                made = mix(store, arrow.subject, self._pairs_of(arrow.subject), self._known_tombstones())
            case "encode":
                from tinygptv.train.encoding.encode import encode

                made = encode(store, run, arrow.subject, *self.encoded(arrow.subject), on_line)
            case "train":
                made = self._train(arrow.subject, store, on_line)
            case "gate":
                from tinygptv.evaluate.gates import pass_gate

                (gate,) = (one for one in run.recipe.stage(arrow.subject).gates if one.benchmark == arrow.benchmark)
                trained = self.find(Arrow("train", arrow.subject))
                made = pass_gate(store, run, self.name, arrow.subject, trained, gate)
            case "export":
                from tinygptv.release.export import export

                made = export(store, run, self.name, self.find(Arrow("train", arrow.subject)))
            case "quantize":
                from tinygptv.release.quantize import quantize

                made = quantize(store, run, self.name, self.find(self.arrows("export")[0]))
            case "evaluate":
                from tinygptv.evaluate.scores import evaluate

                model = self._model(arrow.subject)
                made = evaluate(store, run, self.name, arrow.subject, model, arrow.benchmark, noise=arrow.noise)
            case "report":
                from tinygptv.report.report import report

                made = report(store, run, self.name, [self.find(a) for a in self.arrows() if a.verb != "report"])
        return made

    def _train(self, stage_name: str, store: Store, on_line: Callable[[str], None] | None) -> Manifest:
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

    def usable(self, stage_name: str) -> Manifest:
        """Which samples of its finished mixture a stage can learn from; see `data.usable`."""
        from tinygptv.data.batches.usable import check

        stage = self.run.recipe.stage(stage_name)
        mixture = self.find(Arrow("mix", stage.mixture))
        return check(self.store, mixture.artifact, stage.inputs, self.run.recipe.model)

    def longest_sequence(self, stage_name: str) -> int:
        """Tokens of the longest sequence that a stage draws; 0 if its mixture is not made, or was not checked, yet."""
        checked = self._checked(self.run.recipe.stage(stage_name))
        return int(checked.details["longest_sequence"]) if checked else 0

    def _checked(self, stage: Stage) -> Manifest | None:
        """What `usable` has found out for a stage, or None if it was not asked yet, or could not be."""
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
        """What the scorer says of the source's pairs; None if its filter names none. Raises DataError if unasked."""
        return self.find(Arrow("score", self.run.source_name)) if self.run.filter.scores else None

    def shares(self, stage_name: str) -> Iterator[str]:
        """How a stage draws from its finished mixture, for people: shares, and how often each sample comes."""
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
        """How many there were when this run began; later ones mask its data but do not make them anew."""
        from tinygptv.data.versions.versions import pinned

        pin = pinned(self.store, self.name, self.run.source_name)
        return None if pin is None else pin.tombstones

    def _originals(self) -> dict[str, Manifest]:
        """The versions that the source must not repeat, by reference: those this run began with."""
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


def plan(journey: Journey) -> list[Planned]:
    """What `train_all` would do, in order, without doing any of it.

    The same functions are asked, on a store that makes nothing: what they would make is what a run would make. Where a
    gate would stop it, the plan ends.
    """
    absent: list[str] = []

    def missing(artifact: str, definition: dict[str, Any], parents: list[str]) -> Manifest:
        absent.append(artifact)
        return _placeholder(artifact, definition, parents)

    planner = Journey(ReadingStore(journey.store.workdir, missing), journey.run, journey.name)
    planned = []
    for arrow in planner.arrows():
        try:
            manifest = planner.make(arrow)
        except GateError as error:
            planned.append(Planned(arrow, "", "stop", str(error)))
            break
        if manifest.artifact in absent:
            planned.append(_planned_work(journey.store, arrow, manifest.artifact))
        else:
            why = f"{_version(journey.store, manifest)}complete since {manifest.created}"
            planned.append(Planned(arrow, manifest.artifact, "reuse", why))
    return planned


def train_all(journey: Journey, on_line: Callable[[str], None] | None = None) -> Manifest:
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


def _version(store: Store, manifest: Manifest) -> str:
    from tinygptv.data.versions.versions import number_of

    number = number_of(store, manifest.artifact) if manifest.made_by in ("download", "filter") else None
    return f"version {number}, " if number else ""


def _planned_work(store: Store, arrow: Arrow, artifact: str) -> Planned:
    if (draft := store.draft(artifact)).is_dir():
        steps = [int(path.name.removeprefix("step")) for path in draft.glob("checkpoints/step*")]
        return Planned(arrow, artifact, "resume", f"from step {max(steps)}" if steps else "an attempt was interrupted")
    if older := store.names(artifact.rpartition("@")[0] + "@"):
        return Planned(arrow, artifact, "run", f"its definition or inputs changed since {older[-1]}")
    return Planned(arrow, artifact, "run", "not made yet")


def _differing(store: Store, artifact: str, definition: dict[str, Any], parents: list[str]) -> str:
    """In which fields the newest artifact in the same place is another one, as the end of a sentence."""
    others = [found for name in store.names(artifact.rpartition("@")[0] + "@") if (found := store.find(name))]
    if not others:
        return ""
    from tinygptv.train.lineage import differences

    newest = max(others, key=lambda other: other.created)
    fields = differences(newest.definition | {"parents": newest.parents}, definition | {"parents": parents})
    return f". {newest.artifact} is another: {'; '.join(fields)}"


def _placeholder(artifact: str, definition: dict[str, Any], parents: list[str]) -> Manifest:
    """The manifest of something that is not there: a name for the arrows after it to build on."""
    return Manifest(
        artifact=artifact,
        made_by="plan",
        definition=definition,
        parents=parents,
        rows_in=0,
        rows_out=0,
        drops={},
        details={},
        files={},
        seconds=0,
        created="",
    )
