"""The names in files of BLIP-2, as LAVIS and Hugging Face published it: Q-Former, text side and heads, output norm."""

from tinygptv.errors import HandoffError
from tinygptv.models.stored import Table
from tinygptv.models.translation import COMPUTED, OWN_LAYOUT, Translation, drop_unused, prefixed, rename

OUTPUT_NORM = "vision_encoder.model.post_layernorm."
"""Our name of the vision encoder's output norm, which lies in BLIP-2's file (`ln_vision`)."""

LAVIS_TEXT = [
    (r"^Qformer\.bert\.embeddings\.(word|position)_", r"embeddings.\1_"),
    (r"^Qformer\.cls\.predictions\.transform\.dense\.", "itg_head.dense."),
    (r"^Qformer\.cls\.predictions\.transform\.LayerNorm\.", "itg_head.norm."),
    (r"^Qformer\.cls\.predictions\.(decoder\.)?", "itg_head.words."),
    (r"^(vision|text)_proj\.", r"\1_projection."),
    (r"^temp$", "temperature"),
]
LAVIS_QFORMER = [
    (r"^Qformer\.bert\.embeddings\.LayerNorm\.", "model.layernorm."),
    (r"^Qformer\.bert\.encoder\.", "model.encoder."),
    (r"attention\.self\.", "attention.attention."),
]

_UNUSED_BESIDE_TEXT = [
    (r"(t5|opt)_(proj|model)\.|language_(projection|model)\.", "the language model BLIP-2 was trained with"),
    (r"Qformer\.cls\.predictions\.decoder\.bias$", "another name of a tensor that is read"),
    (r"visual_encoder\.", "the vision encoder, which is read from its own file"),
    (r"vision_model\.(?!post_layernorm\.)", "the vision encoder, which is read from its own file"),
]
UNUSED_QFORMER = [
    (r"(t5|opt)_(proj|model)\.|language_(projection|model)\.", "the language model BLIP-2 was trained with"),
    (r"Qformer\.cls\.|(vision_proj|text_proj|itm_head)\.|temp$", "a head of BLIP-2's first stage"),
    (r"Qformer\.bert\.embeddings\.(word|position)_embeddings", "the Q-Former's text side"),
    (r"Qformer\.bert\.encoder\.layer\.\d+\.(intermediate|output)\.", "the Q-Former's text side"),
    (r"visual_encoder\.", "the vision encoder, which is read from its own file"),
    (r"vision_model\.(?!post_layernorm\.)", "the vision encoder, which is read from its own file"),
]


def output_norm_file(table: Table) -> Translation:
    """A BLIP-2 of LAVIS, of which the vision encoder's output norm alone is taken."""
    kept, left_out = drop_unused(table, [(r"(?!ln_vision\.)", "no part of the vision encoder")])
    return Translation("the output norm of a BLIP-2", rename(kept, [(r"^ln_vision\.", OUTPUT_NORM)]), left_out)


def image_text_file(table: Table, where: str) -> Translation:
    """A Q-Former with its text side and heads, as `qformer.…`, and the vision encoder's output norm if it is there.

    Of LAVIS's first stage, of Hugging Face's retrieval model, or in our own layout. Raises HandoffError for a BLIP-2
    without the heads, as those of the second stage are.
    """
    is_lavis = any(name.startswith("Qformer.") for name in table)
    if (is_lavis or any(name.startswith("qformer.") for name in table)) and "itm_head.weight" not in table:
        raise HandoffError(
            f"{where}: a BLIP-2 without the heads that match pictures and texts; use LAVIS's blip2_pretrained.pth, or "
            "the Blip2ForImageTextRetrieval of Hugging Face"
        )
    kept, left_out = drop_unused(table, [COMPUTED, *_UNUSED_BESIDE_TEXT])
    if is_lavis:
        rules = [(r"^ln_vision\.", OUTPUT_NORM), *LAVIS_TEXT, *LAVIS_QFORMER, (r"^(?!vision_encoder\.)", "qformer.")]
        return Translation("BLIP-2's first stage as LAVIS names it", rename(kept, rules), left_out)
    if any(name.startswith("qformer.") for name in table):
        rules = [
            (r"^qformer\.", "model."),
            (r"^vision_model\.", "vision_encoder.model."),
            (r"^(?!vision_encoder\.)", "qformer."),
        ]
        return Translation("BLIP-2's first stage as Hugging Face names it", rename(kept, rules), left_out)
    return Translation(OWN_LAYOUT, prefixed("qformer.", table), {})
