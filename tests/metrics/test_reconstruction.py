import numpy as np
import pytest
import torch

from object_discovery.metrics import ReconstructionError, reconstruction_error


def random_images() -> tuple[torch.Tensor, torch.Tensor]:
    pred, target = torch.rand(2, 5, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    return pred, target


def test_equals_numpy() -> None:
    pred, target = random_images()
    squares = (pred.numpy().astype(np.float64) - target.numpy()) ** 2
    np.testing.assert_allclose(reconstruction_error(pred, target).numpy(), squares.mean((1, 2, 3)), rtol=1e-6)
    sums = reconstruction_error(pred, target, reduction="sum")
    np.testing.assert_allclose(sums.numpy(), squares.sum((1, 2, 3)), rtol=1e-6)


def test_half_precision_inputs_are_computed_in_float32_under_autocast() -> None:
    pred, target = random_images()
    with torch.autocast("cpu", torch.bfloat16):
        error = reconstruction_error(pred.bfloat16(), target)
    assert torch.equal(error, reconstruction_error(pred.bfloat16().float(), target))


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_class_computes_the_mean_over_images(reduction: str) -> None:
    pred, target = random_images()
    metric = ReconstructionError(reduction)  # type: ignore[arg-type]
    metric.update(pred[:4], target[:4])
    metric.update(pred[4:], target[4:])
    expected = reconstruction_error(pred, target, reduction=reduction).mean()  # type: ignore[arg-type]
    assert metric.compute().item() == pytest.approx(expected.item(), rel=1e-12)


def test_nan_in_a_reconstruction_makes_the_mean_nan() -> None:
    pred, target = random_images()
    pred[2, 0, 0, 0] = torch.nan
    metric = ReconstructionError()
    metric.update(pred, target)
    assert metric.compute().isnan()


def test_wrong_arguments_are_refused() -> None:
    pred, target = random_images()
    with pytest.raises(ValueError, match="one shape"):
        reconstruction_error(pred, target[:, :2])
    with pytest.raises(ValueError, match=r"to be floats.*scale uint8 images"):
        reconstruction_error(pred, target.to(torch.uint8))
    with pytest.raises(ValueError, match="`reduction` to be 'mean' or 'sum', but got 'median'"):
        reconstruction_error(pred, target, reduction="median")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="`reduction`"):
        ReconstructionError("median")  # type: ignore[arg-type]
