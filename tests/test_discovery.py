import torch

from object_discovery import Discovery


def test_labels_are_the_argmax_of_the_masks_and_ties_go_to_the_lowest_slot() -> None:
    masks = torch.tensor([[[[0.2, 0.5, 0.1]], [[0.7, 0.5, 0.1]], [[0.1, 0.0, 0.8]]]])
    labels = Discovery(torch.zeros(1, 3, 4), masks).labels
    assert labels.tolist() == [[[1, 0, 2]]]
    assert labels.dtype == torch.int64


def test_missing_outputs_are_none() -> None:
    actual = Discovery(slots=torch.zeros(1, 3, 4), masks=torch.zeros(1, 3, 2, 2))
    assert (actual.image, actual.slot_images, actual.attention) == (None, None, None)
    assert (actual.decoder_masks, actual.posterior_masks, actual.cluster_masks) == (None, None, None)
    slots, masks, *rest = actual
    assert (slots.shape, masks.shape, len(rest)) == ((1, 3, 4), (1, 3, 2, 2), 6)


def test_apply_maps_each_tensor() -> None:
    discovery = Discovery(slots=torch.rand(3, 2, 4), masks=torch.rand(3, 2, 5, 5), attention=torch.rand(3, 2, 1, 1))
    first = discovery.apply(lambda value: value[:1])
    assert torch.equal(first.slots, discovery.slots[:1])
    assert torch.equal(first.masks, discovery.masks[:1])
    assert first.attention is not None
    assert first.attention.shape == (1, 2, 1, 1)
    assert (first.image, first.slot_images) == (None, None)
