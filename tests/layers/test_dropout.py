import pytest
import torch

from object_discovery.layers.dropout import Dropout, dropout


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_share_is_dropped_and_the_mean_stays(share: float, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    found = dropout(torch.ones(401, 499, dtype=dtype), share)
    assert found.dtype == dtype
    assert float((found == 0).double().mean()) == pytest.approx(share, abs=4e-3)
    kept = found[found != 0].float()
    torch.testing.assert_close(
        kept, torch.full_like(kept, 1 / (1 - share)), rtol=5e-3 if dtype != torch.float32 else 1e-4, atol=0
    )


def test_a_share_of_almost_all_leaves_numbers() -> None:
    torch.manual_seed(0)
    found = dropout(torch.ones(1000), 1 - 1e-9)
    assert found.isfinite().all()
    assert (found == 0).sum() > 900


def test_entries_are_dropped_apart() -> None:
    torch.manual_seed(0)
    kept = dropout(torch.ones(300, 400), 0.5).bool().float()
    for a, b in ((kept[:, 1:], kept[:, :-1]), (kept[1:], kept[:-1]), (kept[:, 4:], kept[:, :-4])):
        assert float((a * b).mean()) == pytest.approx(0.25, abs=0.01)
    assert not torch.equal(dropout(torch.ones(300), 0.5), dropout(torch.ones(300), 0.5))


def test_gradients_flow_through_what_is_kept() -> None:
    torch.manual_seed(0)
    inputs = torch.randn(3, 7, requires_grad=True)
    found = dropout(inputs, 0.4)
    (gradient,) = torch.autograd.grad(found.sum(), inputs)
    torch.testing.assert_close(gradient, found.detach() / inputs.detach())


def test_nothing_is_dropped_in_evaluation() -> None:
    inputs = torch.randn(50)
    assert dropout(inputs, 0.5, training=False) is inputs
    assert dropout(inputs, 0.0) is inputs
    layer = Dropout(0.5)
    assert not torch.equal(layer(inputs), inputs)
    assert torch.equal(layer.eval()(inputs), inputs)
