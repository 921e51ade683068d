import pytest
import torch

from object_discovery.layers.dropout import Dropout, dropout


@pytest.mark.parametrize("probability", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_fraction_of_zeros_and_scale_of_the_rest(probability: float, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    outputs = dropout(torch.ones(401, 499, dtype=dtype), probability)
    assert outputs.dtype == dtype
    assert float((outputs == 0).double().mean()) == pytest.approx(probability, abs=4e-3)
    nonzero = outputs[outputs != 0].float()
    torch.testing.assert_close(
        nonzero, torch.full_like(nonzero, 1 / (1 - probability)), rtol=5e-3 if dtype != torch.float32 else 1e-4, atol=0
    )


def test_probability_near_one_is_finite() -> None:
    torch.manual_seed(0)
    outputs = dropout(torch.ones(1000), 1 - 1e-9)
    assert outputs.isfinite().all()
    assert (outputs == 0).sum() > 900


def test_entries_are_dropped_independently() -> None:
    torch.manual_seed(0)
    mask = dropout(torch.ones(300, 400), 0.5).bool().float()
    for a, b in ((mask[:, 1:], mask[:, :-1]), (mask[1:], mask[:-1]), (mask[:, 4:], mask[:, :-4])):
        assert float((a * b).mean()) == pytest.approx(0.25, abs=0.01)
    assert not torch.equal(dropout(torch.ones(300), 0.5), dropout(torch.ones(300), 0.5))


def test_gradient_is_the_scaled_mask() -> None:
    torch.manual_seed(0)
    inputs = torch.randn(3, 7, requires_grad=True)
    outputs = dropout(inputs, 0.4)
    (gradient,) = torch.autograd.grad(outputs.sum(), inputs)
    torch.testing.assert_close(gradient, outputs.detach() / inputs.detach())


def test_evaluation_mode_and_probability_zero_return_inputs() -> None:
    inputs = torch.randn(50)
    assert dropout(inputs, 0.5, training=False) is inputs
    assert dropout(inputs, 0.0) is inputs
    layer = Dropout(0.5)
    assert not torch.equal(layer(inputs), inputs)
    assert torch.equal(layer.eval()(inputs), inputs)
