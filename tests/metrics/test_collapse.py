import numpy as np
import pytest
import torch
from scipy.stats import entropy

from object_discovery.metrics import active_slots, duplicated_slots, mask_entropy


def test_active_slots_are_the_argmax_at_more_than_the_given_share() -> None:
    masks = torch.zeros(2, 4, 10, 10)
    masks[0, 0] = 1
    masks[1, 2], masks[1, 1, 0] = 0.4, 0.6  # ten pixels for slot 1, the others for slot 2
    assert active_slots(masks).tolist() == [1, 2]
    assert active_slots(masks, min_share=0.1).tolist() == [1, 1]
    assert active_slots(torch.full((1, 4, 2, 2), 0.25)).tolist() == [1]


def test_duplicated_slots_are_similar_to_an_earlier_slot() -> None:
    base = torch.eye(4)
    slots = torch.stack([base, base[[0, 0, 2, 2]], base[[1, 1, 1, 1]] * torch.arange(1, 5)[:, None], -base.abs()])
    assert duplicated_slots(slots).tolist() == [0, 2, 3, 0]
    assert duplicated_slots(torch.tensor([[[1.0, 0.0], [-1.0, 0.0]]])).tolist() == [0]  # opposite slots
    near = torch.tensor([[[1.0, 0.0], [1.0, 1.0]]])  # cosine 0.71
    assert duplicated_slots(near).tolist() == [0]
    assert duplicated_slots(near, threshold=0.7).tolist() == [1]


def test_mask_entropy_equals_scipy_divided_by_log_k() -> None:
    masks = torch.randn(3, 5, 4, 6, generator=torch.Generator().manual_seed(0)).mul(3).softmax(1)
    expected = entropy(masks.numpy(), axis=1).mean((1, 2)) / np.log(5)
    np.testing.assert_allclose(mask_entropy(masks).numpy(), expected, rtol=1e-5)
    assert mask_entropy(torch.ones(1, 1, 2, 2)).item() == 0
    assert mask_entropy(torch.eye(3).reshape(1, 3, 3, 1)).item() == 0


def test_half_precision_inputs_are_computed_in_float32_under_autocast() -> None:
    masks, slots = torch.rand(2, 4, 8, 8).softmax(1).bfloat16(), torch.randn(2, 4, 8).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        entropies, duplicates = mask_entropy(masks), duplicated_slots(slots, threshold=0.1)
    assert entropies.dtype == torch.float32
    assert torch.equal(entropies, mask_entropy(masks.float()))
    assert torch.equal(duplicates, duplicated_slots(slots.float(), threshold=0.1))


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="`masks` to be of shape"):
        active_slots(torch.zeros(2, 3, 4))
    with pytest.raises(ValueError, match="`min_share` to be at least 0 and below 1, but got 1"):
        active_slots(torch.zeros(2, 3, 4, 4), min_share=1)
    with pytest.raises(ValueError, match="`slots` to be of shape"):
        duplicated_slots(torch.zeros(2, 3))
    with pytest.raises(ValueError, match="`masks` to be of shape"):
        mask_entropy(torch.zeros(2, 3, 4))
