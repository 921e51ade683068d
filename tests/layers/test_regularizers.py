from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor, nn

from object_discovery.layers.regularizers import (
    SlotRegularizer,
    cosine_loss,
    covariance_loss,
    slot_covariance_loss,
    variance_loss,
)

Array = npt.NDArray[np.float64]
SHAPES = [(4, 5, 7), (2, 3, 16), (1, 4, 2), (6, 1, 3)]


def make_slots(shape: tuple[int, ...]) -> Tensor:
    """Sample slots that are neither centred nor independent."""
    generator = torch.Generator().manual_seed(0)
    slots = torch.randn(shape, generator=generator, dtype=torch.float64)
    return slots @ torch.randn(shape[-1], shape[-1], generator=generator, dtype=torch.float64) + 0.5


def covariance(slots: Array) -> float:
    """Sum of squares off the diagonal of Z^T Z / (M - 1), divided by P; Z is centred."""
    z = slots.reshape(-1, slots.shape[2])
    z = z - z.mean(axis=0)
    c = z.T @ z / (len(z) - 1)
    return float(sum(c[i, j] ** 2 for i in range(len(c)) for j in range(len(c)) if i != j) / slots.shape[2])


def slot_covariance(slots: Array) -> float:
    """Sum of squares off the diagonal of Z Z^T / (P - 1), divided by P, averaged over images; Z is centred over P."""
    size, losses = slots.shape[2], []
    for z in slots - slots.mean(axis=2, keepdims=True):
        c = z @ z.T / (size - 1)
        losses.append(sum(c[i, j] ** 2 for i in range(len(c)) for j in range(len(c)) if i != j) / size)
    return float(np.mean(losses))


def cosine(slots: Array) -> float:
    """Sum over i != j of max(0, cos - 0.2), divided by B K^2."""
    total = 0.0
    for image in slots:
        for i, a in enumerate(image):
            for j, b in enumerate(image):
                if i != j:
                    total += max(0.0, a @ b / np.sqrt((a @ a) * (b @ b)) - 0.2)
    return float(total / (len(slots) * slots.shape[1] ** 2))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    ("loss", "formula"),
    [(covariance_loss, covariance), (slot_covariance_loss, slot_covariance), (cosine_loss, cosine)],
)
def test_losses_match_formulas(loss: Any, formula: Any, shape: tuple[int, ...]) -> None:
    slots = make_slots(shape)
    assert float(loss(slots)) == pytest.approx(formula(slots.numpy()), rel=1e-12)
    assert float(loss(slots.float())) == pytest.approx(formula(slots.numpy()), rel=1e-4)


@pytest.mark.parametrize("loss", [covariance_loss, slot_covariance_loss])
def test_divide_by_square_divides_by_size_once_more(loss: Any) -> None:
    slots = make_slots((3, 4, 8))
    torch.testing.assert_close(loss(slots, divide_by_square=True) * 8, loss(slots))


def test_covariance_losses_match_torch_cov() -> None:
    slots = make_slots((3, 4, 6))
    c = torch.cov(slots.flatten(0, 1).T)
    torch.testing.assert_close(covariance_loss(slots), (c.square().sum() - c.diagonal().square().sum()) / 6)
    matrices = [torch.cov(image) for image in slots]
    expected = torch.stack([(c.square().sum() - c.diagonal().square().sum()) / 6 for c in matrices]).mean()
    torch.testing.assert_close(slot_covariance_loss(slots), expected)


def test_cosine_loss_matches_torch_cosine_similarity() -> None:
    slots = make_slots((3, 4, 6))
    cosines = torch.cosine_similarity(slots[:, :, None], slots[:, None], dim=3)
    excess = (cosines - 0.5).clamp_min(0) * (1 - torch.eye(4))
    torch.testing.assert_close(cosine_loss(slots, margin=0.5), excess.mean())


@pytest.mark.parametrize("target", [0.0, 1.0, 3.0])
def test_variance_loss_matches_numpy(target: float) -> None:
    slots = make_slots((3, 4, 6))
    for values, axis, of in ((slots.flatten(0, 1), 0, "features"), (slots, 2, "slots")):
        deviation = np.sqrt(values.numpy().var(axis=axis, ddof=1) + 1e-4)
        expected = np.maximum(0, target - deviation).mean()
        assert float(variance_loss(slots, target=target, of=of)) == pytest.approx(expected, rel=1e-12)  # type: ignore[arg-type]


def test_uncorrelated_slots_have_zero_loss() -> None:
    assert cosine_loss(torch.eye(4)[None]).item() == 0
    signs = torch.tensor([[[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]]])
    assert covariance_loss(signs).item() == 0
    assert variance_loss(signs).item() == 0
    assert slot_covariance_loss(torch.tensor([[[1.0, -1.0, 0.0, 0.0], [0.0, 0.0, 1.0, -1.0]]])).item() == 0


@pytest.mark.parametrize("loss", [covariance_loss, slot_covariance_loss, variance_loss, cosine_loss])
def test_single_and_inactive_slots_have_finite_loss_and_gradient(loss: Any) -> None:
    for slots in (torch.ones(1, 1, 4), torch.ones(1, 1, 1), torch.zeros(2, 3, 4)):
        slots.requires_grad_()
        value = loss(slots)
        value.backward()
        assert value.isfinite()
        assert slots.grad is not None
        assert slots.grad.isfinite().all()


@pytest.mark.parametrize("loss", [covariance_loss, slot_covariance_loss, variance_loss, cosine_loss])
def test_gradient_step_lowers_each_loss(loss: Any) -> None:
    slots = (0.1 * make_slots((4, 5, 6)) + 0.5).requires_grad_()
    loss_before = loss(slots)
    (gradient,) = torch.autograd.grad(loss_before, slots)
    assert all(gradient[b, k].any() for b in range(4) for k in range(5))
    assert loss(slots - 0.01 * gradient / gradient.norm()) < loss_before
    assert torch.autograd.gradcheck(loss, slots)


@pytest.mark.parametrize("loss", [covariance_loss, slot_covariance_loss, variance_loss, cosine_loss])
def test_autocast_does_not_change_losses(loss: Any) -> None:
    slots = make_slots((4, 5, 6)).float()
    with torch.autocast("cpu", torch.bfloat16):
        inside = loss(slots)
    assert inside.dtype == torch.float32
    assert torch.equal(inside, loss(slots))
    assert loss(slots.bfloat16()).dtype == torch.float32


@pytest.mark.parametrize("loss", [covariance_loss, slot_covariance_loss, variance_loss, cosine_loss])
def test_slots_of_wrong_shape_raise(loss: Any) -> None:
    with pytest.raises(ValueError, match=r"`slots` to be of shape \(B, K, P\), but got \(5, 6\)"):
        loss(torch.zeros(5, 6))


@pytest.mark.parametrize(("norm", "kind", "size"), [("batch", nn.BatchNorm1d, 5), ("layer", nn.LayerNorm, 12)])
def test_projection_head_has_published_layers(norm: Any, kind: type[nn.Module], size: int) -> None:
    head = SlotRegularizer(5, 8, ["covariance"], projection_size=12, projection_norm=norm).head
    assert isinstance(head, nn.Sequential)
    assert [type(layer) for layer in head] == [nn.Linear, kind, nn.ReLU, nn.Linear, kind, nn.ReLU, nn.Linear]
    linear = [layer for layer in head if isinstance(layer, nn.Linear)]
    assert [(layer.in_features, layer.out_features) for layer in linear] == [(8, 12), (12, 12), (12, 12)]
    assert {parameter.shape[0] for layer in head if isinstance(layer, kind) for parameter in layer.parameters()} == {
        size
    }
    slots = make_slots((3, 5, 8)).float()
    for norm_layer in (layer for layer in head if isinstance(layer, kind)):
        # batch: each slot has mean 0 over images and features; layer: each vector has mean 0
        values = norm_layer(head[0](slots))
        torch.testing.assert_close(values.mean((0, 2) if norm == "batch" else 2).abs().max(), torch.tensor(0.0))


def test_module_computes_selected_losses_of_projected_slots() -> None:
    slots = make_slots((3, 5, 8)).float()
    regularizer = SlotRegularizer(
        5, 8, ["covariance", "variance", "cosine"], projection_size=12, divide_by_square=True, variance_target=2.0
    )
    projected = regularizer.head(slots)
    assert projected.shape == (3, 5, 12)
    expected = {
        "covariance": covariance_loss(projected, divide_by_square=True),
        "variance": variance_loss(projected, target=2.0),
        "cosine": cosine_loss(projected),
    }
    losses = regularizer(slots)
    assert losses.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(losses[name], value)


def test_module_without_head_has_no_parameters() -> None:
    slots = make_slots((3, 5, 8)).float()
    regularizer = SlotRegularizer(5, 8, ["covariance", "variance"], covariance_of="slots")
    assert not regularizer.state_dict()
    losses = regularizer(slots)
    assert losses.keys() == {"covariance", "variance"}
    torch.testing.assert_close(losses["covariance"], slot_covariance_loss(slots))
    torch.testing.assert_close(losses["variance"], variance_loss(slots, of="slots"))


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("terms", {"terms": ["covariance", "no_such"]}),
        ("covariance_of", {"covariance_of": "no_such"}),
        ("projection_norm", {"projection_norm": "no_such"}),
    ],
)
def test_unknown_choice_raises(name: str, settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"`{name}` to be one of .*, but got 'no_such'"):
        SlotRegularizer(5, 8, **{"terms": ["covariance"], **settings})


def insert_inactive_slot(slots: Tensor) -> Tensor:
    """Insert an inactive slot, a zero vector, after the first slot of each image."""
    return torch.cat([slots[:, :1], torch.zeros_like(slots[:, :1]), slots[:, 1:]], 1)


@pytest.mark.parametrize("of", ["features", "slots"])
def test_inactive_slots_do_not_affect_losses(of: Any) -> None:
    slots = torch.randn(3, 4, 6, dtype=torch.float64)
    padded = insert_inactive_slot(slots)
    torch.testing.assert_close(covariance_loss(padded), covariance_loss(slots))
    torch.testing.assert_close(slot_covariance_loss(padded), slot_covariance_loss(slots))
    torch.testing.assert_close(variance_loss(padded, target=2, of=of), variance_loss(slots, target=2, of=of))
    torch.testing.assert_close(cosine_loss(padded), cosine_loss(slots) * 4**2 / 5**2)


def test_inactive_slots_do_not_affect_losses_after_projection_head() -> None:
    torch.manual_seed(0)
    settings: Any = {"projection_size": 7, "projection_norm": "layer"}
    regularizer = SlotRegularizer(4, 6, ["covariance", "variance", "cosine"], **settings)
    slots = torch.randn(3, 4, 6)
    expected, padded = regularizer(slots), regularizer(insert_inactive_slot(slots))
    torch.testing.assert_close(padded.pop("cosine"), expected.pop("cosine") * 4**2 / 5**2)
    torch.testing.assert_close(padded, expected)
