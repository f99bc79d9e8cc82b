"""Every number of the bootstrap in one place; all of them go into its provenance."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Phase:
    """One training loop: AdamW, linear warm-up, then a cosine down to a tenth of the peak rate."""

    steps: int
    batch: int
    peak_lr: float
    seed: int
    warmup_steps: int = 100
    weight_decay: float = 0.05
    checkpoint_steps: int = 250


@dataclass(frozen=True)
class Settings:
    """Sizes of the three backbones and the budget of their pretraining, chosen for one thread and about an hour."""

    image_sizes: tuple[int, int] = (48, 64)  # px; stages 1-3 use the first, stage 4 the second
    patch_size: int = 8
    width: int = 128
    heads: int = 4
    vision_layers: int = 4
    qformer_layers: int = 4
    query_tokens: int = 16
    contrast_width: int = 64
    language_layers: int = 5
    vocabulary: int = 640
    language_tokens: int = 128  # longer exchanges are cut
    slot_noise: float = 0.1  # on the attributes of what is told in vectors: no picture is read exactly
    norm_penalty: float = 0.02
    mention_layer: int = 3  # after which it must be known what a phrase speaks of
    mention_weight: float = 0.2
    tower: Phase = field(default_factory=lambda: Phase(steps=2400, batch=32, peak_lr=1.5e-3, seed=1))
    qformer: Phase = field(default_factory=lambda: Phase(steps=1600, batch=24, peak_lr=1.0e-3, seed=2))
    language: Phase = field(
        default_factory=lambda: Phase(steps=4000, batch=16, peak_lr=1.5e-3, seed=3, checkpoint_steps=1000)
    )
