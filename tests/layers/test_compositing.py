import numpy as np
import torch
from scipy.special import softmax

from object_discovery.layers.compositing import alpha_composite, slot_softmax


def test_shares_are_those_of_scipy_among_the_slots_present() -> None:
    logits = torch.randn(2, 5, 7, generator=torch.Generator().manual_seed(0))
    present = torch.tensor([[True, False, True, True, False], [True] * 5])
    shares = slot_softmax(logits, 1, present[..., None])
    for image in range(2):
        there = present[image].numpy()
        expected = np.zeros((5, 7))
        expected[there] = softmax(logits[image].double().numpy()[there], axis=0)
        np.testing.assert_allclose(shares[image], expected, atol=1e-6)
    torch.testing.assert_close(slot_softmax(logits, 1)[1], shares[1])


def test_shares_are_float32_and_slots_left_out_get_no_gradient() -> None:
    logits = torch.zeros(3, 4, dtype=torch.bfloat16, requires_grad=True)
    shares = slot_softmax(logits, 0, torch.tensor([True, False, True])[:, None])
    assert shares.dtype == torch.float32
    shares[0].sum().backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None
    torch.testing.assert_close(logits.grad[:, 0].float(), torch.tensor([0.25, 0.0, -0.25]))


def test_blended_slots_are_the_weighted_sum_of_those_present() -> None:
    painted = torch.randn(2, 3, 4, 5, 6, generator=torch.Generator().manual_seed(0))
    present = torch.tensor([[True, True, False], [True] * 3])
    image, slot_images, masks = alpha_composite(painted, present)
    logits = painted[:, :, 3].double().numpy()
    expected = np.stack([np.concatenate([softmax(logits[0, :2], 0), np.zeros((1, 5, 6))]), softmax(logits[1], 0)])
    np.testing.assert_allclose(masks, expected, atol=1e-6)
    np.testing.assert_allclose(image, np.einsum("bkhw,bkchw->bchw", expected, painted[:, :, :3]), atol=1e-6)
    assert torch.equal(slot_images, painted[:, :, :3])
