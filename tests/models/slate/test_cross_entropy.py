import pytest
import torch
import torch.nn.functional as F

from object_discovery.models.slate import cross_entropy
from object_discovery.models.slate.cross_entropy import token_cross_entropy


@pytest.mark.parametrize("logits", [5 * 4, 5 * 100])  # in chunks of 4 rows, and in one chunk
def test_loss_and_gradients_equal_those_of_torch(logits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cross_entropy, "_LOGITS", {"cpu": logits})
    torch.manual_seed(0)
    features, weight = torch.randn(11, 3, requires_grad=True), torch.randn(5, 3, requires_grad=True)
    targets = torch.randint(5, (11,))
    total, per_token = token_cross_entropy(features, weight, targets)
    expected = F.cross_entropy(features @ weight.T, targets, reduction="none")
    torch.testing.assert_close(per_token, expected)
    assert not per_token.requires_grad
    torch.testing.assert_close(total, expected.sum())
    actual = torch.autograd.grad(total / 7, (features, weight))
    torch.testing.assert_close(actual, torch.autograd.grad(expected.sum() / 7, (features, weight)))


def test_gradient_equals_finite_differences() -> None:
    torch.manual_seed(0)
    features = torch.randn(6, 3, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    targets = torch.randint(5, (6,))
    assert torch.autograd.gradcheck(lambda x, w: token_cross_entropy(x, w, targets)[0], (features, weight))


@pytest.mark.parametrize("needs_grad", [(True, False), (False, True), (False, False)])
def test_gradients_are_computed_only_for_inputs_that_require_them(needs_grad: tuple[bool, bool]) -> None:
    torch.manual_seed(0)
    tensors = [torch.randn(size, 3, requires_grad=need) for size, need in zip((4, 5), needs_grad, strict=True)]
    total, _ = token_cross_entropy(tensors[0], tensors[1], torch.tensor([0, 1, 2, 3]))
    assert total.requires_grad == any(needs_grad)
    if any(needs_grad):
        total.backward()  # type: ignore[no-untyped-call]
    assert tuple(part.grad is not None for part in tensors) == needs_grad


def test_products_are_in_bfloat16_under_autocast_and_sums_in_float32() -> None:
    torch.manual_seed(0)
    features, weight = torch.randn(50, 64, requires_grad=True), torch.randn(300, 64, requires_grad=True)
    targets = torch.randint(300, (50,))
    with torch.autocast("cpu", torch.bfloat16):
        total, per_token = token_cross_entropy(features, weight, targets)
    assert total.dtype == per_token.dtype == torch.float32
    total.backward()  # type: ignore[no-untyped-call]
    expected = F.cross_entropy(features.bfloat16().float() @ weight.bfloat16().float().T, targets, reduction="none")
    torch.testing.assert_close(per_token, expected, rtol=0.02, atol=0.05)
    for part in (features, weight):
        (exact,) = torch.autograd.grad(expected.sum(), part, retain_graph=True)
        assert part.grad is not None
        assert part.grad.dtype == torch.float32
        assert float((part.grad - exact).norm() / exact.norm()) < 0.02
