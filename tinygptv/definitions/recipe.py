"""A recipe: a model as named parts, and the stages that train it, in running order.

Sizes use the field's words: `width` is the hidden size, `depth` the number of layers, `mlp_width` the inner size of the
feed-forward, all in units of features. Sources of the values: each recipe file says.
"""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from tinygptv.definitions.base import LOCATION_PREFIXES, Definition, Location


class VisionEncoder(Definition):
    """EVA-CLIP ViT as BLIP-2 uses it: class token kept, a LayerNorm (`ln_vision`) on the output.

    `image_size` (px) is the one it was pretrained at; a stage at another size interpolates the position table once.
    """

    architecture: Literal["eva_vit"]
    width: int = Field(gt=0)
    depth: int = Field(gt=0)
    heads: int = Field(gt=0)
    mlp_width: int = Field(gt=0)
    patch_size: int = Field(gt=0)
    image_size: int = Field(gt=0)
    weights: Location

    def num_tokens(self, image_size: int) -> int:
        """Tokens per image at `image_size` px, class token included."""
        return (image_size // self.patch_size) ** 2 + 1


class QFormer(Definition):
    """BLIP-2's querying transformer: `queries` learned vectors read the image through cross-attention."""

    part: Literal["qformer"]
    queries: int = Field(gt=0)
    width: int = Field(gt=0)
    depth: int = Field(gt=0)
    heads: int = Field(gt=0)
    mlp_width: int = Field(gt=0)
    cross_attention_every: int = Field(gt=0)
    weights: Location


class Linear(Definition):
    """One affine map from the incoming width to `width`; TinyGPT-V stacks two with nothing between them."""

    part: Literal["linear"]
    width: int = Field(gt=0)
    weights: Location | None = None


ConnectorPart = Annotated[QFormer | Linear, Field(discriminator="part")]


class Phi(Definition):
    """Phi-2's decoder. `qk_norm` and `attention_norm` are TinyGPT-V's additions: a LayerNorm per head on queries and
    keys before the rotary embedding, and an RMSNorm on the attention branch before the residual sum."""

    architecture: Literal["phi"]
    width: int = Field(gt=0)
    depth: int = Field(gt=0)
    heads: int = Field(gt=0)
    mlp_width: int = Field(gt=0)
    vocabulary: int = Field(gt=0)
    max_positions: int = Field(gt=0)
    rotary_fraction: float = Field(gt=0, le=1)
    dropout: float = Field(default=0.0, ge=0, lt=1)
    qk_norm: bool
    attention_norm: bool
    weights: Location
    tokenizer: Location


class Model(Definition):
    """image → vision_encoder → connector parts in order → language_model."""

    vision_encoder: VisionEncoder
    connector: list[ConnectorPart] = Field(min_length=1)
    language_model: Phi

    @model_validator(mode="after")
    def _connector_ends_at_the_decoder(self) -> Self:
        last = self.connector[-1].width
        if last != self.language_model.width:
            raise ValueError(
                f"connector[-1].width is {last} but language_model.width is {self.language_model.width}; "
                "the last connector part must speak the decoder's width"
            )
        return self


class Lora(Definition):
    """Low-rank adapters on the fused query-key-value and the output projection of every decoder layer."""

    rank: int = Field(gt=0)
    alpha: float = Field(gt=0)
    dropout: float = Field(ge=0, lt=1)
    init: Literal["fresh", "inherit"]


Trainable = Literal[
    "connector.qformer", "connector.projections", "language_model.norms", "language_model.lora", "language_model.all"
]


class Inputs(Definition):
    """What a stage feeds the model. `template` holds `{}` where the instruction goes; null means no prompt at all."""

    image_size: int = Field(gt=0)
    max_text_tokens: int = Field(gt=0)
    template: str | None
    end_symbol: str

    @model_validator(mode="after")
    def _template_has_one_slot(self) -> Self:
        if self.template is not None and self.template.count("{}") != 1:
            raise ValueError(f"template {self.template!r} needs exactly one {{}} where the instruction goes")
        return self


class Schedule(Definition):
    """Linear warm-up, then a cosine indexed from step 0 (reference semantics), over `rounds` repetitions of `steps`.

    A `final_lr` above `peak_lr` makes the rate rise for the whole stage; `rising: true` says it is meant.
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
                f"{self.peak_lr} but rising is {str(self.rising).lower()}; say rising: {str(not self.rising).lower()} "
                "to mean it, or change the rates"
            )
        return self


class Optimizer(Definition):
    """AdamW; tensors with one dimension (biases, norms) are never decayed. `clip_norm: null` means no clipping."""

    weight_decay: float = Field(ge=0)
    beta1: float = Field(gt=0, lt=1)
    beta2: float = Field(gt=0, lt=1)
    clip_norm: float | None = Field(gt=0)


class Stage(Definition):
    """One training run: what it starts from, what it trains, what it sees, for how long."""

    stage: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    about: str
    starts_from: str
    objective: Literal["next_token"] = "next_token"
    mixture: str
    trains: list[Trainable] = Field(min_length=1)
    lora: Lora | None = None
    inputs: Inputs
    global_batch_size: int = Field(gt=0)
    schedule: Schedule
    optimizer: Optimizer
    checkpoint_every: int = Field(gt=0)

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
"""In `starts_from`: the pretrained parts alone, projections fresh."""


class Recipe(Definition):
    """A model family's whole life; `seed` fixes data order, initialisation and dropout."""

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
            if stage.inputs.image_size % self.model.vision_encoder.patch_size:
                raise ValueError(
                    f"stages[{position}].inputs.image_size: {stage.inputs.image_size} px is not a multiple of the "
                    f"patch size {self.model.vision_encoder.patch_size}"
                )
            known.add(stage.stage)
        return self

    def stage(self, name: str) -> Stage:
        """The stage called `name`. Raises KeyError."""
        return {stage.stage: stage for stage in self.stages}[name]
