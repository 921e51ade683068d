import pytest
import torch
import torch.nn.functional as F

from object_discovery.models.slate import attention
from object_discovery.models.slate.attention import attend


@pytest.mark.parametrize(("num_queries", "num_keys"), [(11, 11), (8, 3), (4, 9)])
def test_blockwise_attention_equals_scaled_dot_product_attention(
    num_queries: int, num_keys: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "_BLOCK", 4)
    monkeypatch.setattr(attention, "dropout", lambda inputs, probability: inputs)
    torch.manual_seed(0)
    tensors = [torch.randn(2, 3, size, 6, requires_grad=True) for size in (num_queries, num_keys, num_keys)]
    weights = torch.randn(2, 3, num_queries, 6)
    for causal in {False, num_queries == num_keys}:
        queries, keys, values = tensors
        actual = attend(queries, keys, values, causal=causal, probability=0.1)
        expected = F.scaled_dot_product_attention(queries, keys, values, is_causal=causal)
        torch.testing.assert_close(actual, expected)
        gradients = [torch.autograd.grad((out * weights).sum(), tensors) for out in (actual, expected)]
        torch.testing.assert_close(gradients[0], gradients[1])


def test_attention_dropout_zeroes_weights_with_the_given_probability() -> None:
    torch.manual_seed(0)
    values = torch.eye(400).expand(1, 2, 400, 400)
    queries = torch.zeros(1, 2, 400, 8)
    weights = attend(queries, queries, values, probability=0.25)  # each is 1 / 400, or 4 / 3 of that, or 0
    assert float((weights == 0).float().mean()) == pytest.approx(0.25, abs=5e-3)
    torch.testing.assert_close(weights.max(), torch.tensor(1 / 300))
    weights = attend(queries, queries, values, causal=True, probability=0.25)
    assert not weights.triu(1).any()
    assert float(weights.sum(-1).mean()) == pytest.approx(1, abs=0.02)
