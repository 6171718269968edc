"""The cross entropy whose gradients come with it: equal to PyTorch's, for every kind of head."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torch.utils._python_dispatch import TorchDispatchMode

from mm15.model import loss
from mm15.model.loss import IGNORE, target_loss

VOCABULARY, WIDTH = 50, 8


def example(targets: int = 9) -> tuple[nn.Linear, Tensor, Tensor]:
    """A head, hidden states [1, 12, 8] and labels, of which so many are targets."""
    torch.manual_seed(0)
    head = nn.Linear(WIDTH, VOCABULARY, bias=False)
    labels = torch.randint(0, VOCABULARY, (1, 12))
    labels[:, targets:] = IGNORE
    return head, torch.randn(1, 12, WIDTH, requires_grad=True), labels


def by_torch(head: nn.Module, hidden: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(head(hidden)[0], labels[0], ignore_index=IGNORE, reduction="sum")


@pytest.mark.parametrize("softmax", [1, 3 * VOCABULARY, 2**21])
@pytest.mark.parametrize("rows", [4, 9, 100])
def test_equals_torch(rows: int, softmax: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Loss, count and gradients, in chunks and at once; the gradient follows what the loss is multiplied by."""
    monkeypatch.setattr(loss, "LOGIT_ROWS", rows)
    monkeypatch.setattr(loss, "SOFTMAX_NUMBERS", softmax)
    head, hidden, labels = example()
    total, count = target_loss(head, hidden, labels)
    right = by_torch(head, hidden, labels)
    assert int(count) == 9
    torch.testing.assert_close(total, right)
    ours = torch.autograd.grad(total / 7, (hidden, head.weight))
    torch.testing.assert_close(ours, torch.autograd.grad(right / 7, (hidden, head.weight)))


def test_no_target_has_a_gradient_of_zero() -> None:
    """A rank without targets must still have something to reduce with the others."""
    head, hidden, labels = example(0)
    total, count = target_loss(head, hidden, labels)
    total.backward()
    assert (total.item(), int(count)) == (0.0, 0)
    assert head.weight.grad is not None
    assert not head.weight.grad.any()


def test_only_what_learns_gets_a_gradient() -> None:
    """A frozen head passes the gradient on; without gradients only the loss is computed."""
    head, hidden, labels = example()
    head.requires_grad_(False)
    wanted = torch.autograd.grad(by_torch(head, hidden, labels), hidden)
    torch.testing.assert_close(torch.autograd.grad(target_loss(head, hidden, labels)[0], hidden), wanted)
    with torch.no_grad():
        torch.testing.assert_close(target_loss(head, hidden, labels)[0], by_torch(head, hidden, labels))


def test_other_heads_are_called() -> None:
    """A head that is not a plain linear layer does what it does: a bias, an adapter, a hook."""
    head, hidden, labels = example()
    biased = nn.Linear(WIDTH, VOCABULARY)
    torch.testing.assert_close(target_loss(biased, hidden, labels)[0], by_torch(biased, hidden, labels))
    head.register_forward_hook(lambda _m, _i, out: out * 2)
    torch.testing.assert_close(target_loss(head, hidden, labels)[0], by_torch(head, hidden, labels))


def test_products_are_in_the_precision_of_autocast() -> None:
    """Under autocast as near to fp32 as bf16 products are, and the weight's gradient in the weight's precision."""
    head, hidden, labels = example()
    with torch.autocast("cpu", torch.bfloat16):
        total, _ = target_loss(head, hidden, labels)
    exact = by_torch(head, hidden, labels)
    assert 0 < abs((total - exact).item()) < 0.01 * exact.item()
    assert torch.autograd.grad(total, head.weight)[0].dtype == torch.float32


def test_few_logits_are_in_fp32_at_one_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Under autocast the logits are bf16 and become their gradient in place; probabilities exist for 2 targets of 9."""
    monkeypatch.setattr(loss, "SOFTMAX_NUMBERS", 2 * VOCABULARY + 1)
    made: list[Tensor] = []

    class Record(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            result = func(*args, **(kwargs or {}))
            if isinstance(result, Tensor) and result.shape[-1:] == (VOCABULARY,) and len(result) != WIDTH:
                made.append(result)
            return result

    head, hidden, labels = example()
    with torch.autocast("cpu", torch.bfloat16), Record():
        target_loss(head, hidden, labels)
    assert max(len(logits) for logits in made if logits.dtype == torch.bfloat16) == 9
    assert max(len(logits) for logits in made if logits.dtype == torch.float32) == 2
    assert len({logits.untyped_storage().data_ptr() for logits in made if logits.dtype == torch.bfloat16}) == 1


def test_a_second_backward_is_refused() -> None:
    """The gradients are scaled in place, so a graph that is kept must not give them again."""
    head, hidden, labels = example()
    total, _ = target_loss(head, hidden, labels)
    (total / 2).backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        (total / 2).backward()
