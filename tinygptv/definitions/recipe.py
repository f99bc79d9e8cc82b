"""A recipe: a model and the stages that train it, in order. Sources of the values are in each recipe file."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from tinygptv.definitions.base import LOCATION_PREFIXES, Definition
from tinygptv.definitions.kinds import kind_in, kind_of
from tinygptv.definitions.model import Model
from tinygptv.definitions.parts import ConnectorPart
from tinygptv.definitions.template import Prompting
from tinygptv.definitions.trainable import frozen_prefix, trainable
from tinygptv.errors import did_you_mean


class Lora(Definition):
    """Low-rank adapters on the `targets` of every decoder layer."""

    rank: int = Field(gt=0)
    alpha: float = Field(gt=0)
    dropout: float = Field(ge=0, lt=1)
    init: Literal["fresh", "inherit"]
    targets: list[str] = Field(default=["query_key_value", "dense"], min_length=1)


OBJECTIVES = "tinygptv.train.objectives"
"""The package whose files are the objectives that a stage may name."""

Oddity = Literal[
    "later_bos_unseen",
    "end_symbol_cut",
    "no_bos_when_asking",
    "one_wording_per_batch",
    "space_after_instruction",
    "plain_without_image",
]
"""Likely mistakes of the published code in preparing inputs, off unless a stage names them:
`later_bos_unseen`        the BOS before later turns of a conversation is hidden from attention, as pad has its id
`end_symbol_cut`          an answer that is too long loses its end symbol, which is appended before the cut
`no_bos_when_asking`      no BOS at inference, although every training sequence began with one
`one_wording_per_batch`   one instruction is drawn per batch, not per sample
`space_after_instruction` an instruction about an image ends with a space, which joins that of the template
`plain_without_image`     text without an image loses its case, most punctuation and all but 50 words on each side"""


Decoding = Literal["exact", "fast"]
"""How pictures are decoded: exactly as by Pillow, or JPEGs in half the time with rounding differences of one step."""


class Inputs(Prompting):
    """What a stage feeds the model: pictures of which size, and text in which template."""

    image_size: int = Field(gt=0)
    decoding: Decoding = "exact"
    max_text_tokens: int = Field(gt=0)
    oddities: list[Oddity] = Field(default_factory=list)


class Schedule(Definition):
    """Linear warm-up, then a cosine indexed from step 0 (reference semantics), over `rounds` repetitions of `steps`.

    A `final_lr` above `peak_lr` makes the rate rise through the whole stage; `rising: true` confirms that.
    """

    warmup_lr: float = Field(ge=0)
    peak_lr: float = Field(gt=0)
    final_lr: float = Field(ge=0)
    warmup_steps: int = Field(ge=0)
    steps: int = Field(gt=0)
    rounds: int = Field(default=1, ge=1)
    rising: bool = False

    @model_validator(mode="after")
    def _rising_is_said(self) -> Self:
        if (self.final_lr > self.peak_lr) != self.rising:
            raise ValueError(
                f"final_lr {self.final_lr} {'lies above' if self.final_lr > self.peak_lr else 'is not above'} peak_lr "
                f"{self.peak_lr} but rising is {str(self.rising).lower()}; write rising: "
                f"{str(not self.rising).lower()} to confirm it, or change the rates"
            )
        return self


class Optimizer(Definition):
    """AdamW; tensors with one dimension (biases, norms) are never decayed. `clip_norm: null` means no clipping."""

    weight_decay: float = Field(ge=0)
    beta1: float = Field(gt=0, lt=1)
    beta2: float = Field(gt=0, lt=1)
    clip_norm: float | None = Field(gt=0)


JUDGED_AFTER = 20
"""Steps of a stage before spikes are judged, because the first losses fall too fast."""


class Watch(Definition):
    """What counts as trouble while a stage trains, and what is done about it.

    NaN or Inf in the loss or gradients, and a step without anything to learn, always count. If given, so do a loss
    above `loss_spike` times the median of the last steps, and a gradient norm above `gradient_explosion` times theirs,
    from step 21 of the stage on.
    `then: roll_back` returns to the last good checkpoint and skips the batch of the trouble and those before it,
    `skip_steps` in all; after `retries` roll-backs, or at once with `halt`, the stage stops and keeps that checkpoint.
    A sample whose picture cannot be read also stops it; with `unusable_samples: replace` it is replaced by another one
    of its component, and an event records that.
    """

    then: Literal["halt", "roll_back"] = "halt"
    unusable_samples: Literal["halt", "replace"] = "halt"
    loss_spike: float | None = Field(default=None, gt=1)
    gradient_explosion: float | None = Field(default=None, gt=1)
    skip_steps: int = Field(default=1, ge=1)
    retries: int = Field(default=2, ge=1)


class Gate(Definition):
    """What a trained stage must reach before the next one begins: a score of `at_least` (0..1) on a benchmark.

    The `items` whose keys hash lowest are asked, the same in every run. `metric`: the strict score, or the lenient one
    of the reference's scripts. Below it, `stop` begins no further stage, `warn` logs it and continues. Gates do not
    affect a stage's identity: changing one retrains nothing.
    """

    benchmark: str
    metric: Literal["score", "lenient"] = "score"
    at_least: float = Field(ge=0, le=1)
    items: int = Field(default=64, ge=1)
    then: Literal["stop", "warn"]


class Keep(Definition):
    """Which checkpoints are kept: the `last` ones while the stage trains; one in `every` so many steps, and the `best`
    by the mean loss of the last steps before them, also after it."""

    last: int = Field(default=2, ge=1)
    every: int | None = Field(default=None, ge=1)
    best: int = Field(default=0, ge=0)


class Stage(Definition):
    """One training run: what it starts from, what it trains, on what data, for how long."""

    stage: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    about: str
    starts_from: str
    objective: Annotated[str, kind_in(OBJECTIVES)] = "next_token"
    mixture: str
    trains: list[str] = Field(min_length=1)
    lora: Lora | None = None
    inputs: Inputs
    global_batch_size: int = Field(gt=0)
    schedule: Schedule
    optimizer: Optimizer
    checkpoint_every: int = Field(gt=0)
    keep: Keep = Keep()
    watch: Watch = Watch()
    gates: list[Gate] = Field(default_factory=list)

    def frozen_prefix(self, model: Model) -> tuple[str, ...]:
        """The vision encoder and the connector parts after it of which this stage trains nothing (see `trainable`)."""
        return frozen_prefix(model, self.trains)

    def frozen_connector(self, model: Model) -> list[ConnectorPart]:
        """The connector parts in that prefix."""
        return model.connector[: max(0, len(self.frozen_prefix(model)) - 1)]

    @model_validator(mode="after")
    def _what_is_kept_is_saved(self) -> Self:
        if self.keep.every is not None and self.keep.every % self.checkpoint_every:
            raise ValueError(
                f"keep.every: {self.keep.every} is not a multiple of checkpoint_every, {self.checkpoint_every}, so "
                "no checkpoint is saved at those steps"
            )
        return self

    @model_validator(mode="after")
    def _a_watch_sees_something(self) -> Self:
        steps = self.schedule.steps * self.schedule.rounds
        for field in ("loss_spike", "gradient_explosion"):
            if getattr(self.watch, field) is not None and steps <= JUDGED_AFTER:
                raise ValueError(
                    f"watch.{field} compares a step with at least {JUDGED_AFTER} before it, but the stage has only "
                    f"{steps}, so nothing would be watched; leave it out, or train for more steps"
                )
        return self

    @model_validator(mode="after")
    def _lora_is_there_to_be_trained(self) -> Self:
        if ("language_model.lora" in self.trains) != (self.lora is not None):
            raise ValueError(
                "trains names language_model.lora" if self.lora is None else "lora is set but trains does not name it"
            )
        return self


class Quantize(Definition):
    """Weights of linear layers stored in `bits`; `skip` names parts kept as they are."""

    bits: Literal[8]
    skip: list[Literal["vision_encoder", "connector", "language_model", "head"]]


BACKBONES = "backbones"
"""In `starts_from`: the pretrained parts, with fresh projections."""


class Recipe(Definition):
    """A model family from its backbones to its benchmarks; `seed` fixes data order, initialisation and dropout."""

    about: str
    model: Model
    stages: list[Stage] = Field(min_length=1)
    quantize: Quantize
    benchmarks: list[str]
    seed: int = 42

    @model_validator(mode="after")
    def _stages_follow_each_other(self) -> Self:
        known = {BACKBONES}
        for position, stage in enumerate(self.stages):
            if stage.starts_from not in known and not stage.starts_from.startswith(LOCATION_PREFIXES):
                raise ValueError(
                    f"stages[{position}].starts_from: no earlier stage is called '{stage.starts_from}'; "
                    f"name one of {', '.join(sorted(known))}, or a checkpoint's location"
                )
            if stage.stage in known:
                raise ValueError(f"stages[{position}].stage: '{stage.stage}' is used twice")
            known.add(stage.stage)
        return self

    @model_validator(mode="after")
    def _stages_fit_the_model(self) -> Self:
        decoder, known = self.model.language_model, trainable(self.model)
        for position, stage in enumerate(self.stages):
            for place, name in enumerate(stage.trains):
                if name not in known:
                    raise ValueError(
                        f"stages[{position}].trains[{place}]: this model has no '{name}' to train. "
                        f"{did_you_mean(name, known)}"
                    )
            try:
                self.model.check_image_size(stage.inputs.image_size)
            except ValueError as error:
                raise ValueError(f"stages[{position}].inputs.image_size: {error}") from error
            image = self.model.num_image_tokens(stage.inputs.image_size)
            if image + stage.inputs.max_text_tokens >= decoder.max_positions:
                raise ValueError(
                    f"stages[{position}].inputs.max_text_tokens: {stage.inputs.max_text_tokens} and the {image} tokens "
                    f"of an image leave no prompt a place in the decoder's {decoder.max_positions} positions"
                )
            unknown = set(stage.lora.targets) - set(decoder.lora_targets) if stage.lora else set()
            if unknown:
                raise ValueError(
                    f"stages[{position}].lora.targets: a {kind_of(decoder)} decoder has no "
                    f"{', '.join(sorted(unknown))}; it has {', '.join(decoder.lora_targets)}"
                )
        return self

    @model_validator(mode="after")
    def _inherited_adapters_act_as_they_were_trained(self) -> Self:
        trained: dict[str, Lora] = {}
        for position, stage in enumerate(self.stages):
            before = trained.get(stage.starts_from)
            if stage.lora and before and stage.lora.init == "inherit":
                for field in ("rank", "alpha", "targets"):
                    found, wanted = getattr(before, field), getattr(stage.lora, field)
                    if found != wanted and (field != "targets" or set(found) != set(wanted)):
                        raise ValueError(
                            f"stages[{position}].lora.{field}: {wanted}, but {stage.stage} inherits the adapters of "
                            f"{stage.starts_from}, trained with {field} {found}, and would change their effect; write "
                            f"{found} here, or train {stage.starts_from} with {wanted}"
                        )
            if adapters := stage.lora or before:
                trained[stage.stage] = adapters
        return self

    @model_validator(mode="after")
    def _gates_ask_what_is_held_out(self) -> Self:
        for position, stage in enumerate(self.stages):
            asked = [gate.benchmark for gate in stage.gates]
            for place, name in enumerate(asked):
                where = f"stages[{position}].gates[{place}].benchmark"
                if name not in self.benchmarks:
                    raise ValueError(
                        f"{where}: '{name}' is not among the recipe's benchmarks, so its items may have been trained "
                        f"on; add it there. {did_you_mean(name, self.benchmarks)}"
                    )
                if name in asked[:place]:
                    raise ValueError(f"{where}: '{name}' is asked twice after {stage.stage}; keep one of the gates")
        return self

    def stage(self, name: str) -> Stage:
        """The stage called `name`. Raises KeyError if there is none."""
        return {stage.stage: stage for stage in self.stages}[name]
