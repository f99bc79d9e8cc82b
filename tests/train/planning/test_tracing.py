"""The traced step against the step in life."""

import torch
from torch import Tensor, nn

from tinygptv import catalog
from tinygptv.models.vlm import VisionLanguageModel
from tinygptv.sample import IGNORE_INDEX, IMAGE_SLOT
from tinygptv.train.assemble import set_up
from tinygptv.train.lineage import adapters
from tinygptv.train.objective import Learner, PartLosses
from tinygptv.train.objectives.next_token import OBJECTIVE, PART
from tinygptv.train.planning.tracing import Trace, trace

TINY = catalog.recipe("tinygptv_tiny")
SAMPLES, TOKENS, LABELS = 3, 40, 9


def tiny(checkpointing: bool) -> VisionLanguageModel:
    stage = TINY.stage("stage2")
    model = VisionLanguageModel(TINY.model, stage.inputs.image_size, adapters(TINY, stage))
    return set_up(model, TINY.model, stage, checkpointing)


def texts(images: int) -> tuple[Tensor, Tensor, Tensor]:
    ids = torch.zeros(SAMPLES, TOKENS, dtype=torch.int64)
    ids[:, 1 : 1 + images] = IMAGE_SLOT
    labels = torch.full_like(ids, IGNORE_INDEX)
    labels[:, -LABELS:] = 0
    return ids, torch.ones_like(ids), labels


def traced(checkpointing: bool) -> Trace:
    model = tiny(checkpointing)
    side = TINY.stage("stage2").inputs.image_size
    images = SAMPLES, 3, side, side
    return trace(Learner(model, OBJECTIVE), torch.float32, images, texts(model.num_image_tokens))


def kept_in_life(checkpointing: bool) -> int:
    """Bytes of all floats that autograd keeps for the backward pass, of its pictures and of what it returns."""
    model = tiny(checkpointing)
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if tensor.is_floating_point() and storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    side = TINY.stage("stage2").inputs.image_size
    pixel_values = torch.zeros(SAMPLES, 3, side, side)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        results = model(pixel_values, *texts(model.num_image_tokens))
    for result in [pixel_values, *results]:
        keep(result)
    return sum(kept.values())


def test_what_a_traced_step_keeps_is_what_a_real_one_keeps() -> None:
    assert traced(checkpointing=False).kept == kept_in_life(checkpointing=False)


def test_checkpointing_keeps_each_layer_s_input_and_computes_the_layers_once_more() -> None:
    whole, saving = traced(checkpointing=False), traced(checkpointing=True)
    layers = TINY.model.language_model.depth
    states = SAMPLES * TOKENS * TINY.model.language_model.width * 4
    assert layers * states < saving.kept < whole.kept / 5
    one_layer = (whole.kept - saving.kept) / layers
    assert saving.peak - saving.kept > one_layer
    assert saving.forward_flops == whole.forward_flops
    assert saving.backward_flops > 1.4 * whole.backward_flops


def test_operations_are_those_of_the_products_written_out() -> None:
    model, tokens = TINY.model, SAMPLES * TOKENS
    vision, qformer, language = model.vision_encoder, model.connector[0], model.language_model
    patches, image = vision.num_tokens(48) - 1, SAMPLES * vision.num_tokens(48)
    block = 4 * vision.width**2 + 2 * vision.width * vision.mlp_width
    tower = 2 * SAMPLES * patches * 3 * vision.patch_size**2 * vision.width
    tower += vision.depth * (2 * image * block + 4 * image * vision.num_tokens(48) * vision.width)
    queries = SAMPLES * qformer.queries
    layer = 2 * queries * (4 * qformer.width**2 + 2 * qformer.width * qformer.mlp_width)
    layer += 4 * queries * qformer.queries * qformer.width
    cross = 2 * (2 * queries + 2 * image) * qformer.width**2 + 4 * queries * vision.num_tokens(48) * qformer.width
    reading = qformer.depth * layer + qformer.depth // qformer.cross_attention_every * cross
    projections = 2 * queries * (qformer.width * 256 + 256 * language.width)
    lora = 16 * (2 * language.width + 4 * language.width)
    weights = 4 * language.width**2 + 2 * language.width * language.mlp_width + lora
    decoder = language.depth * (2 * tokens * weights + 4 * tokens * TOKENS * language.width)
    head = 2 * 2 * SAMPLES * LABELS * language.width * language.vocabulary  # there and at once back
    assert traced(checkpointing=False).forward_flops == tower + reading + projections + decoder + head


def test_the_backward_pass_of_a_frozen_decoder_costs_as_much_as_its_forward_pass() -> None:
    passed = traced(checkpointing=False)
    language = TINY.model.language_model
    frozen = 2 * SAMPLES * TOKENS * language.depth * (4 * language.width**2 + 2 * language.width * language.mlp_width)
    assert frozen < passed.backward_flops < 2 * frozen


def test_fresh_gradients_are_told_apart_from_activations() -> None:
    model = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 64))

    class Loss(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = model

        def forward(self, pixel_values: Tensor) -> PartLosses:
            total = self.layers(pixel_values).sum()
            return {PART: (total, total.detach())}

    passed = trace(Loss(), torch.float32, (2, 64), ())
    matrix, bias, states = 64 * 64 * 4, 64 * 4, 2 * 64 * 4
    assert passed.kept == 2 * states + 4
    assert passed.gradients >= matrix + bias
    assert passed.peak < 2 * (matrix + bias) + 8 * states
