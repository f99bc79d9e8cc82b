"""A recipe: a model as named parts, and the stages that train it, in running order.

Sizes use the field's words: `width` is the hidden size, `depth` the number of layers, `mlp_width` the inner size of the
feed-forward, all in units of features. Sources of the values: each recipe file says.
"""

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from tinygptv.definitions.base import LOCATION_PREFIXES, Definition, Location


class VisionEncoder(Definition):
    """EVA-CLIP ViT as BLIP-2 uses it: class token kept, a LayerNorm (`ln_vision`) on the output.

    `image_size` (px) is the one it was pretrained at; a stage at another size interpolates the position table once.
    The output norm is BLIP-2's and lies in its file, which the Q-Former names; a model without one names it here, as
    `output_norm`, or begins with the identity.
    """

    architecture: Literal["eva_vit"]
    width: int = Field(gt=0)
    depth: int = Field(gt=0)
    heads: int = Field(gt=0)
    mlp_width: int = Field(gt=0)
    patch_size: int = Field(gt=0)
    image_size: int = Field(gt=0)
    weights: Location
    output_norm: Location | None = None

    def num_tokens(self, image_size: int) -> int:
        """Tokens per image at `image_size` px, class token included."""
        return (image_size // self.patch_size) ** 2 + 1


class QFormer(Definition):
    """BLIP-2's querying transformer: `queries` learned vectors read the image through cross-attention.

    `pretrained_with` is the language model that the BLIP-2 in `weights` was trained with: Q-Formers of the same size
    but of different families read alike and answer differently, so a file of another family is refused.
    """

    part: Literal["qformer"]
    queries: int = Field(gt=0)
    width: int = Field(gt=0)
    depth: int = Field(gt=0)
    heads: int = Field(gt=0)
    mlp_width: int = Field(gt=0)
    cross_attention_every: int = Field(gt=0)
    pretrained_with: Literal["t5", "opt"] | None = None
    weights: Location

    def output_tokens(self, tokens: int) -> int:
        """Tokens per image that this part makes of `tokens`: one per query."""
        return self.queries

    def output_width(self, width: int) -> int:
        """Width of a token that this part makes of one of `width`: its own."""
        return self.width


class Linear(Definition):
    """One affine map from the incoming width to `width`; TinyGPT-V stacks two with nothing between them."""

    part: Literal["linear"]
    width: int = Field(gt=0)
    weights: Location | None = None

    def output_tokens(self, tokens: int) -> int:
        """Tokens per image that this part makes of `tokens`: as many."""
        return tokens

    def output_width(self, width: int) -> int:
        """Width of a token that this part makes of one of `width`: its own."""
        return self.width


class Neighbours(Definition):
    """Drops the class token and joins every `count` patches that follow each other in reading order into one feature,
    `count` times as wide. So MiniGPT-v2 affords 448 px: 1024 patches become 256 tokens, and nothing is discarded."""

    part: Literal["neighbours"]
    count: int = Field(ge=2)

    def output_tokens(self, tokens: int) -> int:
        """Tokens per image that this part makes of `tokens`, of which the first is the class token."""
        return (tokens - 1) // self.count

    def output_width(self, width: int) -> int:
        """Width of a token that this part makes of one of `width`."""
        return width * self.count


ConnectorPart = Annotated[QFormer | Linear | Neighbours, Field(discriminator="part")]


class Decoder(Definition):
    """What every language model says. `qk_norm` and `attention_norm` are TinyGPT-V's additions: a norm per head on
    queries and keys before the rotary embedding, and an RMSNorm on the attention branch before the residual sum."""

    lora_targets: ClassVar[tuple[str, ...]]
    """The linear maps of its attention, which are what LoRA may adapt."""

    width: int = Field(gt=0)
    depth: int = Field(gt=0)
    heads: int = Field(gt=0)
    mlp_width: int = Field(gt=0)
    vocabulary: int = Field(gt=0)
    max_positions: int = Field(gt=0)
    qk_norm: bool
    attention_norm: bool
    weights: Location
    tokenizer: Location

    @model_validator(mode="after")
    def _heads_divide_the_width(self) -> Self:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads}")
        return self


class Phi(Decoder):
    """Phi-1.5's and Phi-2's decoder: attention and feed-forward side by side on one normalised input."""

    lora_targets = ("query_key_value", "dense")

    architecture: Literal["phi"]
    rotary_fraction: float = Field(gt=0, le=1)
    dropout: float = Field(default=0.0, ge=0, lt=1)


class Llama(Decoder):
    """Llama's decoder, which TinyLlama and Vicuna share: attention, then feed-forward. Several heads of queries may
    share one of keys and values (`heads` / `key_value_heads`)."""

    lora_targets = ("q_proj", "k_proj", "v_proj", "o_proj")

    architecture: Literal["llama"]
    key_value_heads: int = Field(gt=0)
    rope_theta: float = Field(default=10000.0, gt=0)
    rms_norm_eps: float = Field(gt=0)

    @model_validator(mode="after")
    def _queries_share_keys_evenly(self) -> Self:
        if self.heads % self.key_value_heads:
            raise ValueError(f"heads {self.heads} is not a multiple of key_value_heads {self.key_value_heads}")
        return self


LanguageModel = Annotated[Phi | Llama, Field(discriminator="architecture")]


class Model(Definition):
    """image → vision_encoder → connector parts in order → language_model."""

    vision_encoder: VisionEncoder
    connector: list[ConnectorPart] = Field(min_length=1)
    language_model: LanguageModel

    def num_image_tokens(self, image_size: int) -> int:
        """Tokens that the language model gets for one image of `image_size` px."""
        tokens = self.vision_encoder.num_tokens(image_size)
        for part in self.connector:
            tokens = part.output_tokens(tokens)
        return tokens

    def weight_files(self) -> list[str]:
        """Locations of all pretrained weights."""
        vision = self.vision_encoder
        parts = [part.weights for part in self.connector if not isinstance(part, Neighbours)]
        files = [vision.weights, vision.output_norm, *parts, self.language_model.weights]
        return [location for location in files if location is not None]

    @model_validator(mode="after")
    def _connector_ends_at_the_decoder(self) -> Self:
        width = self.vision_encoder.width
        for part in self.connector:
            width = part.output_width(width)
        if width != self.language_model.width:
            raise ValueError(
                f"connector[-1] gives features of width {width} but language_model.width is "
                f"{self.language_model.width}; the last connector part must speak the decoder's width"
            )
        return self

    @model_validator(mode="after")
    def _neighbours_come_first(self) -> Self:
        for position, part in enumerate(self.connector):
            if isinstance(part, Neighbours) and position:
                raise ValueError(
                    f"connector[{position}]: neighbours drops the vision encoder's class token, so it must come first"
                )
        return self

    def check_image_size(self, image_size: int) -> None:
        """Raises ValueError unless pictures of `image_size` px are cut into whole patches, and these into groups."""
        patch, first = self.vision_encoder.patch_size, self.connector[0]
        if image_size % patch:
            raise ValueError(f"{image_size} px is not a multiple of the patch size {patch}")
        patches = self.vision_encoder.num_tokens(image_size) - 1
        if isinstance(first, Neighbours) and patches % first.count:
            raise ValueError(
                f"{image_size} px gives {patches} patches, which connector[0] cannot join by {first.count}"
            )


class Lora(Definition):
    """Low-rank adapters on the `targets` of every decoder layer."""

    rank: int = Field(gt=0)
    alpha: float = Field(gt=0)
    dropout: float = Field(ge=0, lt=1)
    init: Literal["fresh", "inherit"]
    targets: list[str] = Field(default=["query_key_value", "dense"], min_length=1)


Trainable = Literal[
    "connector.qformer",
    "connector.projections",
    "language_model.added_norms",
    "language_model.input_norms",
    "language_model.final_norm",
    "language_model.norms",
    "language_model.lora",
    "language_model.all",
]
"""Pieces of a model that a stage may train. `added_norms`: QK-norm and the attention branch's RMSNorm; `input_norms`:
those in front of attention and feed-forward; `norms`: all of the decoder's. Of a norm, its weight alone is meant."""

Oddity = Literal[
    "later_bos_unseen",
    "end_symbol_cut",
    "no_bos_when_asking",
    "one_wording_per_batch",
    "space_after_instruction",
    "plain_without_image",
]
"""What the published code does to its inputs and hardly meant, off unless a stage names it:
`later_bos_unseen`        the BOS before later turns of a conversation is hidden from attention, as pad has its id
`end_symbol_cut`          an answer that is too long loses its end symbol, which is appended before the cut
`no_bos_when_asking`      no BOS at inference, although every training sequence began with one
`one_wording_per_batch`   one instruction is drawn per batch, not per sample
`space_after_instruction` an instruction about an image ends with a space, which joins that of the template
`plain_without_image`     text without an image loses its case, most punctuation and all but 50 words on each side"""

BoxForm = Literal["percent", "cogvlm", "qwen_vl"]
"""How boxes are written: `{<10><20><30><80>}` of 0..100, `[[100,200,305,800]]` of 000..999, or
`<box>(100,200),(305,799)</box>` of [0, 1000)."""


class Inputs(Definition):
    """What a stage feeds the model. `template` holds `{}` where the instruction goes; null means no prompt at all.

    `asking_template` stands in for it when the model is asked, if training and evaluation differ. An answer ends with
    `end_symbol` and, with `ends_with_eos`, with the tokenizer's EOS after it.
    """

    image_size: int = Field(gt=0)
    max_text_tokens: int = Field(gt=0)
    template: str | None
    end_symbol: str
    ends_with_eos: bool = False
    asking_template: str | None = None
    boxes: BoxForm = "percent"
    oddities: list[Oddity] = Field(default_factory=list)

    @model_validator(mode="after")
    def _templates_have_one_slot(self) -> Self:
        for template in (self.template, self.asking_template):
            if template is not None and template.count("{}") != 1:
                raise ValueError(f"template {template!r} needs exactly one {{}} where the instruction goes")
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


class Watch(Definition):
    """What counts as trouble while a stage trains, and what is done about it.

    A loss or gradient that is no number, and a step without anything to learn, always are. A loss above `loss_spike`
    times the median of the last steps, and a gradient norm above `gradient_explosion` times theirs, are if given.
    `then: roll_back` goes back to the last good checkpoint and leaves out the batch of the trouble and those before it,
    `skip_steps` in all; after `retries` times, or with `halt` at once, the stage stops and keeps that checkpoint.
    """

    then: Literal["halt", "roll_back"] = "halt"
    loss_spike: float | None = Field(default=None, gt=1)
    gradient_explosion: float | None = Field(default=None, gt=1)
    skip_steps: int = Field(default=1, ge=1)
    retries: int = Field(default=2, ge=1)


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
    watch: Watch = Watch()

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
            known.add(stage.stage)
        return self

    @model_validator(mode="after")
    def _stages_fit_the_model(self) -> Self:
        decoder = self.model.language_model
        for position, stage in enumerate(self.stages):
            try:
                self.model.check_image_size(stage.inputs.image_size)
            except ValueError as error:
                raise ValueError(f"stages[{position}].inputs.image_size: {error}") from error
            unknown = set(stage.lora.targets) - set(decoder.lora_targets) if stage.lora else set()
            if unknown:
                raise ValueError(
                    f"stages[{position}].lora.targets: a {decoder.architecture} decoder has no "
                    f"{', '.join(sorted(unknown))}; it has {', '.join(decoder.lora_targets)}"
                )
        return self

    def stage(self, name: str) -> Stage:
        """The stage called `name`. Raises KeyError."""
        return {stage.stage: stage for stage in self.stages}[name]
