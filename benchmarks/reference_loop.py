"""A reimplementation of the published training forward pass, as slow as the original.

Follows `minigpt_base.py` (MiniGPT-4, which TinyGPT-V uses unchanged) and TinyGPT-V's `modeling_phi.py` for transformers
4.36: prompts are tokenised segment by segment, embedded and concatenated sample by sample; answers are inserted between
each prompt and its padding; attention is not fused; every layer checks for NaN; logits over the full vocabulary are
computed for every position. Function names are the published ones. It runs on the weights of one of our models, so the
results must be the same. Vision encoder and Q-Former are transformers' on both sides, here with eager attention.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from tinygptv.definitions.recipe import Inputs
from tinygptv.models.decoder import ATTENTION_NORM_EPS
from tinygptv.models.decoders.phi import PhiLayer
from tinygptv.models.qformer import QFormer
from tinygptv.models.vlm import VisionLanguageModel


class ReferenceLoop(nn.Module):
    """The published `forward`, on the weights of `model`, which must have a Phi decoder."""

    def __init__(self, model: VisionLanguageModel, tokenizer: PreTrainedTokenizerFast, inputs: Inputs) -> None:
        super().__init__()
        self.model, self.tokenizer, self.inputs = model, tokenizer, inputs
        self.tokenizer.pad_token = self.tokenizer.eos_token
        self.tokenizer.padding_side = "right"
        model.vision_encoder.model.set_attn_implementation("eager")
        for part in model.connector:
            if isinstance(part, QFormer):
                part.model.set_attn_implementation("eager")

    def forward(self, images: Tensor, instructions: Sequence[str], answers: Sequence[str]) -> Tensor:
        """The loss of a batch: images (B, 3, H, W), prompts that contain `<ImageHere>`, and answers."""
        embeds = self.model.connector(self.model.vision_encoder(images))
        cond_embeds, cond_atts = self.prompt_wrap(embeds, instructions)
        regress = self.tokenizer(
            [answer + self.inputs.end_symbol for answer in answers],
            return_tensors="pt",
            padding="longest",
            truncation=True,
            max_length=self.inputs.max_text_tokens,
            add_special_tokens=False,
        ).to(images.device)
        targets = regress.input_ids.masked_fill(regress.input_ids == self.tokenizer.pad_token_id, -100)
        inputs_embeds, attention_mask, input_lens = self.concat_emb_input_output(
            cond_embeds, cond_atts, self.embed_tokens(regress.input_ids), regress.attention_mask
        )
        bos = torch.ones_like(targets[:, :1]) * self.tokenizer.bos_token_id
        inputs_embeds = torch.cat([self.embed_tokens(bos), inputs_embeds], dim=1)
        attention_mask = torch.cat([cond_atts[:, :1], attention_mask], dim=1)
        labels = targets.new_full(inputs_embeds.shape[:2], -100)
        for row, target in enumerate(targets):
            labels[row, input_lens[row] + 1 : input_lens[row] + len(target) + 1] = target
        return self.language_loss(inputs_embeds, attention_mask, labels)

    def prompt_wrap(self, img_embeds: Tensor, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """(B, N, D) and B prompts -> right-padded embeddings (B, P, D) and mask (B, P)."""
        emb_lists = []
        for each_img_embed, each_prompt in zip(img_embeds, prompts, strict=True):
            p_segs = each_prompt.split("<ImageHere>")
            interleave_emb = []
            for seg in p_segs[:-1]:
                interleave_emb.append(torch.cat([self.embed_text(seg), each_img_embed[None]], dim=1))
            wrapped_emb = torch.cat(interleave_emb, dim=1)
            emb_lists.append(torch.cat([wrapped_emb, self.embed_text(p_segs[-1])], dim=1))
        emb_lens = [emb.shape[1] for emb in emb_lists]
        pad_emb = self.embed_tokens(torch.tensor(self.tokenizer.pad_token_id, device=img_embeds.device))
        wrapped_embs = pad_emb.expand(len(emb_lens), max(emb_lens), -1).clone()
        wrapped_atts = torch.zeros(len(emb_lens), max(emb_lens), dtype=torch.int, device=img_embeds.device)
        for row, emb in enumerate(emb_lists):
            wrapped_embs[row, : emb_lens[row]] = emb
            wrapped_atts[row, : emb_lens[row]] = 1
        return wrapped_embs, wrapped_atts

    def concat_emb_input_output(
        self, input_embs: Tensor, input_atts: Tensor, output_embs: Tensor, output_atts: Tensor
    ) -> tuple[Tensor, Tensor, list[int]]:
        """Insert each answer between its prompt and the prompt's padding."""
        input_lens, cat_embs, cat_atts = [], [], []
        for row in range(len(input_embs)):
            input_len = int(input_atts[row].sum())
            input_lens.append(input_len)
            cat_embs.append(torch.cat([input_embs[row][:input_len], output_embs[row], input_embs[row][input_len:]]))
            cat_atts.append(torch.cat([input_atts[row][:input_len], output_atts[row], input_atts[row][input_len:]]))
        return torch.stack(cat_embs), torch.stack(cat_atts), input_lens

    def embed_text(self, text: str) -> Tensor:
        """Embed a segment of a prompt: (1, T, D)."""
        ids = self.tokenizer(text, return_tensors="pt", add_special_tokens=False).input_ids
        return self.embed_tokens(ids.to(self.model.language_model.get_input_embeddings().weight.device))

    def embed_tokens(self, ids: Tensor) -> Tensor:
        """Rows of the decoder's embedding table."""
        return self.model.language_model.get_input_embeddings()(ids)

    def language_loss(self, hidden_states: Tensor, attention_mask: Tensor, labels: Tensor) -> Tensor:
        """`PhiForCausalLM.forward`: (B, T, D), (B, T), (B, T) -> mean cross-entropy, float32."""
        decoder = self.model.language_model.model
        position_ids = torch.arange(hidden_states.shape[1], device=hidden_states.device)[None]
        cos, sin = decoder.rotary_emb(hidden_states, position_ids)
        mask = causal_mask(attention_mask)
        for layer in decoder.layers:
            hidden_states = decoder_layer(layer, hidden_states, mask, cos[:, None], sin[:, None])
            if torch.isnan(hidden_states).any():
                print("nan in the hidden states")
        hidden_states = decoder.final_layernorm(hidden_states)
        logits = self.model.language_model.lm_head(hidden_states).float()
        shift_logits = logits[..., :-1, :].contiguous().view(-1, logits.shape[-1])
        return nn.functional.cross_entropy(shift_logits, labels[..., 1:].contiguous().view(-1))


def causal_mask(attention_mask: Tensor) -> Tensor:
    """(B, T) -> additive mask (B, 1, T, T)."""
    length = attention_mask.shape[1]
    device = attention_mask.device
    seen = torch.ones(length, length, device=device).tril().bool() & attention_mask[:, None, None].bool()
    return torch.zeros(seen.shape, device=device).masked_fill(~seen, torch.finfo(torch.float32).min)


def decoder_layer(layer: PhiLayer, residual: Tensor, mask: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """(B, T, D) -> (B, T, D): parallel attention and feed-forward on one normalised input."""
    hidden_states = layer.input_layernorm(residual)
    attended = rms_norm(attention(layer, hidden_states, mask, cos, sin), layer.attention_norm.get_parameter("weight"))
    feed_forward = layer.mlp.fc2(gelu_new(layer.mlp.fc1(hidden_states)))
    return layer.resid_dropout(attended) + layer.resid_dropout(feed_forward) + residual


def attention(layer: PhiLayer, hidden_states: Tensor, mask: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """(B, T, D) -> (B, T, D): fused projection, QK-norm, partial rotary embedding, softmax in float32."""
    part = layer.self_attn
    batch, length, width = hidden_states.shape
    fused = part.query_key_value(hidden_states).view(batch, length, -1, 3, part.head_width)
    query = part.q_layernorm(fused[..., 0, :]).transpose(1, 2)
    key = part.k_layernorm(fused[..., 1, :]).transpose(1, 2)
    value = fused[..., 2, :].transpose(1, 2)
    turned = cos.shape[-1]
    query = torch.cat([rotate(query[..., :turned], cos, sin), query[..., turned:]], dim=-1)
    key = torch.cat([rotate(key[..., :turned], cos, sin), key[..., turned:]], dim=-1)
    weights = torch.matmul(query, key.transpose(2, 3)) / math.sqrt(part.head_width) + mask
    weights = nn.functional.softmax(weights, dim=-1, dtype=torch.float32).to(query.dtype)
    attended = torch.matmul(weights, value).transpose(1, 2).contiguous().reshape(batch, length, width)
    return part.dense(attended)


def rotate(states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding with split halves."""
    first, second = states.chunk(2, dim=-1)
    return states * cos + torch.cat([-second, first], dim=-1) * sin


def rms_norm(hidden_states: Tensor, weight: Tensor) -> Tensor:
    """LLaMA's RMSNorm, variance in float32."""
    variance = hidden_states.to(torch.float32).pow(2).mean(-1, keepdim=True)
    return weight * (hidden_states * torch.rsqrt(variance + ATTENTION_NORM_EPS))


def gelu_new(states: Tensor) -> Tensor:
    """Tanh approximation of GELU, as in transformers 4.36."""
    inner = math.sqrt(2.0 / math.pi) * (states + 0.044715 * torch.pow(states, 3.0))
    return 0.5 * states * (1.0 + torch.tanh(inner))
