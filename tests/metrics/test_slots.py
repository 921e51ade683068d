import numpy as np
import pytest
import torch
from torch import Tensor

from object_discovery.metrics import SlotCosine, SlotCovariance, slot_cosine, slot_covariance


def random_slots(images: int = 5, slots: int = 4, size: int = 6) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    mixed = torch.randn(images, slots, size, generator=generator) @ torch.randn(size, size, generator=generator)
    return mixed + 3


def test_covariance_equals_numpy_for_any_batches() -> None:
    slots = random_slots()
    c = np.cov(slots.numpy().reshape(-1, 6).astype(np.float64), rowvar=False)
    expected = np.abs(c[~np.eye(6, dtype=bool)]).mean()
    assert slot_covariance(slots).item() == pytest.approx(expected, rel=1e-10)
    metric = SlotCovariance(6)
    for part in (slots[:3], slots[3:4, :2], slots[3:4, 2:], slots[4:]):
        metric.update(part)
    assert metric.compute().item() == pytest.approx(expected, rel=1e-10)
    metric.reset()
    metric.update(slots[:2])
    assert metric.compute().item() == pytest.approx(slot_covariance(slots[:2]).item(), rel=1e-12)


def test_covariance_is_accurate_for_a_large_mean() -> None:
    slots = random_slots()
    assert slot_covariance(slots.double() + 1000).item() == pytest.approx(slot_covariance(slots).item(), rel=1e-6)


def test_cosine_equals_the_mean_over_pairs_in_numpy() -> None:
    slots = random_slots().numpy()
    unit = slots / np.linalg.norm(slots, axis=2, keepdims=True)
    expected = [(z @ z.T)[~np.eye(4, dtype=bool)].mean() for z in unit]
    np.testing.assert_allclose(slot_cosine(torch.from_numpy(slots)).numpy(), expected, atol=1e-6)
    metric = SlotCosine()
    for part in (slots[:4], slots[4:]):
        metric.update(torch.from_numpy(part))
    assert metric.compute().item() == pytest.approx(np.mean(expected), abs=1e-6)


def test_extreme_values() -> None:
    assert slot_cosine(torch.stack([torch.ones(3, 3), torch.eye(3)])).tolist() == pytest.approx([1, 0], abs=1e-6)
    assert slot_cosine(torch.tensor([[[1.0, 2.0], [-2.0, -4.0]]])).item() == pytest.approx(-1)
    assert slot_cosine(torch.randn(2, 1, 4)).tolist() == pytest.approx([0, 0])
    assert slot_covariance(torch.randn(2, 3, 1)).item() == 0
    assert slot_covariance(torch.ones(2, 3, 4)).item() == 0
    assert slot_covariance(torch.ones(1, 1, 4)).isnan()


def test_nan_in_slots_makes_the_result_nan() -> None:
    slots = random_slots()
    slots[0, 0, 0] = torch.nan
    for metric in (SlotCosine(), SlotCovariance(6)):
        metric.update(slots)
        assert metric.compute().isnan()


def test_state_stays_float64_in_half_precision() -> None:
    metric, slots = SlotCovariance(6).half(), random_slots()
    with torch.autocast("cpu", torch.bfloat16):
        metric.update(slots)
    assert metric.products.dtype == torch.float64
    assert metric.compute().item() == pytest.approx(slot_covariance(slots).item(), rel=1e-12)


def test_slots_of_another_shape_are_refused() -> None:
    for function in (slot_cosine, slot_covariance):
        with pytest.raises(ValueError, match=r"`slots` to be of shape \(B, K, D\), but got \(4, 6\)"):
            function(torch.zeros(4, 6))


def test_inactive_slots_are_excluded() -> None:
    slots = torch.randn(3, 4, 6)
    padded = torch.cat([slots[:, :2], torch.zeros(3, 2, 6), slots[:, 2:]], 1)
    torch.testing.assert_close(slot_cosine(padded), slot_cosine(slots))
    torch.testing.assert_close(slot_covariance(padded), slot_covariance(slots))
    assert slot_cosine(torch.zeros(1, 3, 4)).tolist() == [0]
