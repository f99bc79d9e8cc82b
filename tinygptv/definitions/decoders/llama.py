"""Llama, which TinyLlama and Vicuna share: attention, then feed-forward."""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from tinygptv.definitions.parts import Decoder


class Llama(Decoder):
    """Llama's decoder, which TinyLlama and Vicuna share: attention, then feed-forward. Several heads of queries may
    share one of keys and values (`heads` / `key_value_heads`)."""

    lora_targets = ("q_proj", "k_proj", "v_proj", "o_proj")
    config_types = ("llama",)
    config_names: ClassVar[Mapping[str, tuple[str, ...]]] = {
        **Decoder.config_names,
        "key_value_heads": ("num_key_value_heads",),
        "rope_theta": ("rope_theta",),
        "rms_norm_eps": ("rms_norm_eps",),
    }
    known_sizes: ClassVar[Mapping[tuple[int, int], str]] = {(4096, 32): "a Llama of 7B"}

    architecture: Literal["llama"]
    key_value_heads: int = Field(gt=0)
    rope_theta: float = Field(default=10000.0, gt=0)
    rms_norm_eps: float = Field(gt=0)

    @classmethod
    def read_config(cls, config: Mapping[str, Any]) -> dict[str, Any]:
        """As for every decoder; newer files keep the rotary base under `rope_parameters`."""
        fields = super().read_config(config)
        if fields["rope_theta"] is None:
            fields["rope_theta"] = (config.get("rope_parameters") or {}).get("rope_theta")
        return fields

    @model_validator(mode="after")
    def _queries_share_keys_evenly(self) -> Self:
        if self.heads % self.key_value_heads:
            raise ValueError(f"heads {self.heads} is not a multiple of key_value_heads {self.key_value_heads}")
        return self
