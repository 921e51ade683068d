import numpy as np
import torch
from scipy.special import softmax

from object_discovery.layers.compositing import alpha_composite, slot_softmax


def test_slot_softmax_matches_scipy_over_active_slots() -> None:
    logits = torch.randn(2, 5, 7, generator=torch.Generator().manual_seed(0))
    active = torch.tensor([[True, False, True, True, False], [True] * 5])
    probabilities = slot_softmax(logits, 1, active[..., None])
    for image in range(2):
        index = active[image].numpy()
        expected = np.zeros((5, 7))
        expected[index] = softmax(logits[image].double().numpy()[index], axis=0)
        np.testing.assert_allclose(probabilities[image], expected, atol=1e-6)
    torch.testing.assert_close(slot_softmax(logits, 1)[1], probabilities[1])


def test_slot_softmax_is_float32_and_inactive_slots_get_no_gradient() -> None:
    logits = torch.zeros(3, 4, dtype=torch.bfloat16, requires_grad=True)
    probabilities = slot_softmax(logits, 0, torch.tensor([True, False, True])[:, None])
    assert probabilities.dtype == torch.float32
    probabilities[0].sum().backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None
    torch.testing.assert_close(logits.grad[:, 0].float(), torch.tensor([0.25, 0.0, -0.25]))


def test_alpha_composite_is_weighted_sum_of_active_slots() -> None:
    decoded = torch.randn(2, 3, 4, 5, 6, generator=torch.Generator().manual_seed(0))
    active = torch.tensor([[True, True, False], [True] * 3])
    image, slot_images, masks = alpha_composite(decoded, active)
    logits = decoded[:, :, 3].double().numpy()
    expected = np.stack([np.concatenate([softmax(logits[0, :2], 0), np.zeros((1, 5, 6))]), softmax(logits[1], 0)])
    np.testing.assert_allclose(masks, expected, atol=1e-6)
    np.testing.assert_allclose(image, np.einsum("bkhw,bkchw->bchw", expected, decoded[:, :, :3]), atol=1e-6)
    assert torch.equal(slot_images, decoded[:, :, :3])
