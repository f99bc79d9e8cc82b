"""The head in pieces against the plain one: all logits at once."""

import pytest
import torch
from torch import Tensor, nn

from tinygptv.data.batching import Batch
from tinygptv.models.language import head
from tinygptv.models.vlm import VisionLanguageModel
from tinygptv.sample import IGNORE_INDEX
from tinygptv.train.metrics import Losses
from tinygptv.train.tracing import trace

VOCABULARY, WIDTH, LABELS = 50, 8, 13


@pytest.fixture
def few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four labels to a piece, the last with one alone."""
    monkeypatch.setattr(head, "LOGITS_AT_A_TIME", 4 * VOCABULARY)


@pytest.mark.parametrize("bias", [True, False])
def test_losses_and_all_gradients_are_those_of_the_plain_head(few_at_a_time: None, bias: bool) -> None:
    torch.manual_seed(0)
    linear, targets = nn.Linear(WIDTH, VOCABULARY, bias=bias), torch.randint(VOCABULARY, (LABELS,))
    states, weighting = torch.randn(LABELS, WIDTH, requires_grad=True), torch.rand(LABELS)
    tensors = [states, *linear.parameters()]
    plain = nn.functional.cross_entropy(linear(states), targets, reduction="none")
    expected = torch.autograd.grad((plain * weighting).sum(), tensors)
    losses = head.token_losses(linear, states, targets, VOCABULARY)
    torch.testing.assert_close(losses, plain, atol=1e-6, rtol=0)
    for found, wanted in zip(torch.autograd.grad((losses * weighting).sum(), tensors), expected, strict=True):
        torch.testing.assert_close(found, wanted, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("packed", [False, True])
def test_a_model_learns_the_same_and_its_sources_have_the_same_losses(
    model: VisionLanguageModel, batch: dict[str, Tensor], packed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if packed:
        batch["position_ids"] = torch.tensor([[*range(5), *range(4)]] * 3)
    expected, told, gradients = learned(model, batch)
    monkeypatch.setattr(head, "LOGITS_AT_A_TIME", 4 * VOCABULARY)
    loss, by_source, found = learned(model, batch)
    assert loss == pytest.approx(expected, abs=1e-6)
    assert by_source == pytest.approx(told, abs=1e-6)
    assert found.keys() == gradients.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(found[name], gradient, atol=1e-6, rtol=1e-4, msg=name)


def learned(model: VisionLanguageModel, batch: dict[str, Tensor]) -> tuple[float, dict[str, float], dict[str, Tensor]]:
    """Loss, losses by source and every gradient; each sample is of a source of its own."""
    model.zero_grad()
    loss, losses = model(**batch)
    loss.backward()
    texts = {name: tensor for name, tensor in batch.items() if name != "pixel_values"}
    count = len(batch["labels"]) if "position_ids" not in batch else 2 * len(batch["labels"])
    names = tuple(f"source{number}" for number in range(count))
    told = Losses(names, torch.device("cpu"))
    told.add(loss.detach(), losses.detach(), Batch(torch.empty(0), **texts, sources=names))
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return loss.item(), told.by_source(), gradients


def test_the_losses_of_sources_are_means_over_their_own_labels() -> None:
    labels = torch.tensor([[0, 1, 1, IGNORE_INDEX], [0, 1, IGNORE_INDEX, IGNORE_INDEX]])
    told = Losses(["one", "other", "absent"], torch.device("cpu"))
    ids = torch.zeros_like(labels)
    batch = Batch(torch.empty(0), ids, ids, labels, sources=("one", "other"))
    told.add(torch.tensor(2.0), torch.tensor([1.0, 2.0, 5.0]), batch)
    assert told.total == 2.0
    assert told.by_source() == {"one": 1.5, "other": 5.0}


def test_a_traced_pass_in_pieces_holds_the_logits_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """So a plan follows: 64 labels at once, then eight at a time, which the backward pass makes once more."""

    class Loss(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.head = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, VOCABULARY).requires_grad_(False)

        def forward(self, states: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
            losses = head.token_losses(self.head, self.inner(states), targets, VOCABULARY)
            return losses.sum(), losses

    targets = torch.zeros(64, dtype=torch.int64)
    whole = trace(Loss(), torch.float32, (64, WIDTH), [targets])
    monkeypatch.setattr(head, "LOGITS_AT_A_TIME", 8 * VOCABULARY)
    pieces = trace(Loss(), torch.float32, (64, WIDTH), [targets])
    logits = 64 * VOCABULARY * 4
    assert whole.kept > logits
    states, losses = 2 * 64 * WIDTH * 4, (64 + 1) * 4
    assert pieces.kept == states + losses
    assert pieces.peak < whole.peak / 2
    product = 2 * 64 * WIDTH * VOCABULARY
    assert pieces.forward_flops == whole.forward_flops
    assert pieces.backward_flops == whole.backward_flops + product
