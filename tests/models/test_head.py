"""The head's own loss against the plain way: all logits at once, and torch's cross-entropy."""

import pytest
import torch
from torch import Tensor, nn

from tinygptv.data.batches.batching import Batch
from tinygptv.models import head
from tinygptv.models.head import Head
from tinygptv.models.vlm import VisionLanguageModel
from tinygptv.sample import IGNORE_INDEX
from tinygptv.train.metrics import Losses
from tinygptv.train.objective import PartLosses
from tinygptv.train.objectives.next_token import OBJECTIVE, PART
from tinygptv.train.planning.tracing import trace

VOCABULARY, WIDTH, LABELS = 50, 8, 13


@pytest.fixture
def few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four labels to a piece, the last with one alone."""
    monkeypatch.setattr(head, "LOGITS_AT_A_TIME", 4 * VOCABULARY)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("frozen", [True, False])
def test_losses_and_all_gradients_are_those_of_the_plain_way(few_at_a_time: None, bias: bool, frozen: bool) -> None:
    torch.manual_seed(0)
    linear, targets = (
        Head(WIDTH, VOCABULARY, bias=bias).requires_grad_(not frozen),
        torch.randint(VOCABULARY, (LABELS,)),
    )
    states = torch.randn(LABELS, WIDTH, requires_grad=True)
    learned = [states, *(parameter for parameter in linear.parameters() if not frozen)]
    plain = nn.functional.cross_entropy(linear(states), targets, reduction="none")
    expected = torch.autograd.grad(plain.sum() / 3, learned)
    total, losses = linear(states, targets)
    torch.testing.assert_close(losses, plain, atol=1e-6, rtol=0)
    torch.testing.assert_close(total, plain.sum())
    for found, wanted in zip(torch.autograd.grad(total / 3, learned), expected, strict=True):
        torch.testing.assert_close(found, wanted, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(("dtype", "scale", "close"), [(torch.bfloat16, 1.0, 1.3), (torch.float16, 2.0**16, 1.3)])
def test_in_sixteen_bits_gradients_are_as_near_the_truth_as_the_plain_ones(
    dtype: torch.dtype, scale: float, close: float
) -> None:
    """With the published vocabulary, whose probabilities are the smallest numbers there are, and fp16's loss scale."""
    torch.manual_seed(0)
    states, targets = torch.randn(40, 64), torch.randint(51200, (40,))
    exact = Head(64, 51200).requires_grad_(False)
    rounded = Head(64, 51200).requires_grad_(False).to(dtype)
    exact.load_state_dict(rounded.state_dict())

    def gradient(module: Head, whole: bool) -> Tensor:
        own = states.to(dtype).to(module.weight.dtype).requires_grad_()
        factor = scale / len(targets)
        plain = nn.functional.cross_entropy(module(own).float(), targets, reduction="sum") if whole else None
        (sent,) = torch.autograd.grad(factor * (module(own, targets)[0] if plain is None else plain), own)
        return sent.float() / scale

    truth = gradient(exact, whole=True)
    plain, ours = ((gradient(rounded, whole) - truth).norm() / truth.norm() for whole in (True, False))
    assert ours < close * plain < 0.01


def test_without_labels_there_is_no_loss_and_a_gradient_of_nothing(few_at_a_time: None) -> None:
    linear, states = Head(WIDTH, VOCABULARY), torch.empty(0, WIDTH, requires_grad=True)
    total, losses = linear(states, torch.empty(0, dtype=torch.int64))
    assert (total.item(), len(losses)) == (0.0, 0)
    total.backward()
    assert states.grad is not None and states.grad.shape == (0, WIDTH)
    assert linear.weight.grad is not None and not linear.weight.grad.any()


def test_a_head_made_of_a_linear_map_has_its_parameters() -> None:
    linear = nn.Linear(WIDTH, VOCABULARY)
    made = Head.from_linear(linear)
    assert made.weight is linear.weight and made.bias is linear.bias


@pytest.mark.parametrize("packed", [False, True])
def test_a_model_learns_the_same_in_pieces_and_its_sources_have_the_same_losses(
    model: VisionLanguageModel, batch: dict[str, Tensor], packed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if packed:
        batch["position_ids"] = torch.tensor([[*range(5), *range(4)]] * 3)
    expected, expected_by_source, gradients = learn(model, batch)
    monkeypatch.setattr(head, "LOGITS_AT_A_TIME", 4 * VOCABULARY)
    loss, by_source, found = learn(model, batch)
    assert loss == pytest.approx(expected, abs=1e-6)
    assert by_source == pytest.approx(expected_by_source, abs=1e-6)
    assert found.keys() == gradients.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(found[name], gradient, atol=1e-6, rtol=1e-4, msg=name)


def learn(model: VisionLanguageModel, batch: dict[str, Tensor]) -> tuple[float, dict[str, float], dict[str, Tensor]]:
    """Loss, losses by source and every gradient; each sample is of a source of its own."""
    model.zero_grad()
    loss, losses = model(**batch)
    loss.backward()
    texts = {name: tensor for name, tensor in batch.items() if name != "pixel_values"}
    count = len(batch["labels"]) if "position_ids" not in batch else 2 * len(batch["labels"])
    names = tuple(f"source{number}" for number in range(count))
    owners = OBJECTIVE.terms(Batch(torch.empty(0), **texts))[PART]
    found = Losses(OBJECTIVE.parts, names, torch.device("cpu"))
    found.add(PART, loss.detach(), losses, owners, names)
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return loss.item(), found.by_source(), gradients


def test_the_losses_of_sources_are_means_over_their_own_labels() -> None:
    labels = torch.tensor([[0, 1, 1, IGNORE_INDEX], [0, 1, IGNORE_INDEX, IGNORE_INDEX]])
    losses = Losses(OBJECTIVE.parts, ["one", "other", "absent"], torch.device("cpu"))
    ids = torch.zeros_like(labels)
    owners = OBJECTIVE.terms(Batch(torch.empty(0), ids, ids, labels))[PART]
    losses.add(PART, torch.tensor(2.0), torch.tensor([1.0, 2.0, 5.0]), owners, ("one", "other"))
    assert losses.total == 2.0
    assert losses.by_source() == {"one": 1.5, "other": 5.0}


def test_a_traced_pass_holds_the_logits_of_one_piece_and_computes_nothing_twice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """So a plan follows: 64 labels at once, then eight at a time."""

    class Loss(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.head = nn.Linear(WIDTH, WIDTH), Head(WIDTH, VOCABULARY).requires_grad_(False)

        def forward(self, states: Tensor, targets: Tensor) -> PartLosses:
            return {PART: self.head(self.inner(states), targets)}

    targets = torch.zeros(64, dtype=torch.int64)
    whole = trace(Loss(), torch.float32, (64, WIDTH), [targets])
    monkeypatch.setattr(head, "LOGITS_AT_A_TIME", 8 * VOCABULARY)
    pieces = trace(Loss(), torch.float32, (64, WIDTH), [targets])
    logits = 64 * VOCABULARY * 4
    assert 2 * logits < whole.peak
    assert pieces.peak < whole.peak / 3
    states, losses = 2 * 64 * WIDTH * 4, (64 + 1) * 4
    assert whole.kept == pieces.kept == states + losses
    product, inner = 2 * 64 * WIDTH * VOCABULARY, 2 * 64 * WIDTH * WIDTH
    assert pieces.forward_flops == whole.forward_flops == inner + 2 * product
    assert pieces.backward_flops == whole.backward_flops == inner
