import numpy as np
import pytest
import torch
from scipy import ndimage
from scipy.optimize import linear_sum_assignment

from object_discovery import GNM
from object_discovery.data.datasets.multi_dsprites import generate_multi_dsprites
from object_discovery.models.gnm.cluster_init import SEED_SIZE, Seeds, connected_pieces, find_seeds
from object_discovery.models.gnm.decomposition import count_objects_per_map
from object_discovery.models.gnm.local_latents import ObjectHead, place
from tests.models.tiny import SIZE, TINY, make_images


def squares(*corners: tuple[int, int, int, int], size: int = 40) -> torch.Tensor:
    images = torch.zeros(1, 3, size, size)
    for number, (x, y, width, height) in enumerate(corners):
        images[0, number % 3, y : y + height, x : x + width] = 1
    return images


def boxes_of(seeds: Seeds, grid: int) -> torch.Tensor:
    """Width, height and centre of the seeds that are there, in pixels of images of 40 x 40."""
    box = place(seeds.where, grid)[seeds.there]
    return torch.cat([box[:, :2] * 40, (box[:, 2:] + 1) * 20], -1)


def test_frames_lie_around_objects_with_some_margin() -> None:
    images = squares((4, 24, 12, 12), (26, 6, 8, 4))
    seeds = find_seeds(images, torch.zeros_like(images), 0.1, 2)
    assert seeds.there.tolist() == [[False, True, True, False]]
    expected = torch.tensor([[8.0, 4.0, 30.0, 8.0], [12.0, 12.0, 10.0, 30.0]])
    found = boxes_of(seeds, 2)
    torch.testing.assert_close(found[:, 2:], expected[:, 2:], atol=0.05, rtol=0)
    torch.testing.assert_close(found[:, :2], expected[:, :2] * 5 / 12**0.5, atol=0.05, rtol=0)


def test_connected_pieces_are_those_of_scipy() -> None:
    labels = torch.randint(0, 3, (8, 12, 15), generator=torch.Generator().manual_seed(0))
    for image, found in zip(labels, connected_pieces(labels), strict=True):
        assert (found > 0).equal(image > 0)
        for label in (1, 2):
            expected, count = ndimage.label((image == label).numpy())
            there = image == label
            pairs = set(zip(expected[there.numpy()].tolist(), found[there].tolist(), strict=True))
            assert len(pairs) == count == len({number for _, number in pairs})


def test_two_objects_of_one_colour_are_two() -> None:
    images = torch.zeros(1, 3, 40, 40)
    images[:, 0, 4:10, 4:10] = images[:, 0, 26:32, 26:32] = 1
    assert find_seeds(images, torch.zeros_like(images), 0.1, 2).there.tolist() == [[True, False, False, True]]


def test_no_seed_where_all_is_background() -> None:
    images = torch.rand(3, 3, 40, 40)
    assert not find_seeds(images, images, 0.1, 4).there.any()


def test_two_objects_in_a_cell_take_two_cells_and_none_takes_two() -> None:
    images = squares((2, 2, 6, 6), (12, 12, 6, 6))  # both in the first of 2 x 2 cells
    seeds = find_seeds(images, torch.zeros_like(images), 0.1, 2)
    assert seeds.there.sum() == 2
    found = boxes_of(seeds, 2)[:, 2:]
    torch.testing.assert_close(found.sort(0).values, torch.tensor([[5.0, 5.0], [15.0, 15.0]]), atol=0.6, rtol=0)


def test_a_piece_out_of_reach_of_free_cells_is_left_out_and_the_larger_chooses_first() -> None:
    images = squares((0, 0, 4, 4), (6, 0, 6, 6))  # both reach the first of 2 x 2 cells only
    seeds = find_seeds(images, torch.zeros_like(images), 0.1, 2)
    assert seeds.there.tolist() == [[True, False, False, False]]
    torch.testing.assert_close(seeds.colours[0, 0], torch.tensor([0.0, 1, 0]))


def test_autocast_changes_nothing() -> None:
    images = squares((4, 24, 4, 12), (30, 6, 8, 4))
    expected = find_seeds(images, torch.zeros_like(images), 0.1, 2)
    with torch.autocast("cpu", torch.bfloat16):
        found = find_seeds(images, torch.zeros_like(images), 0.1, 2)
    for value, other in zip(found, expected, strict=True):
        assert torch.equal(value, other)


def test_there_may_be_more_cells_than_pixels_that_are_clustered() -> None:
    images = squares((4, 24, 12, 12))
    seeds = find_seeds(images, torch.zeros_like(images), 0.1, 21)
    assert seeds.there.sum() == 1
    torch.testing.assert_close(boxes_of(seeds, 21)[0, 2:], torch.tensor([10.0, 30.0]), atol=0.05, rtol=0)


def test_sprites_are_found() -> None:
    """Against a matching of the true centres: most sprites have a seed near their middle, and counts mostly agree."""
    images, masks = generate_multi_dsprites(np.arange(40))
    pixels, labels = torch.from_numpy(images).permute(0, 3, 1, 2) / 255, torch.from_numpy(masks)
    background = torch.stack([image[:, mask == 0].median(1).values for image, mask in zip(pixels, labels, strict=True)])
    seeds = find_seeds(pixels, background[:, :, None, None].expand_as(pixels), 0.1, 4)
    assert (seeds.there.sum(1) == count_objects_per_map(labels)).float().mean() > 0.7
    near = []
    for where, there, mask in zip(seeds.where, seeds.there, masks, strict=True):
        found = ((place(where, 4)[there][:, 2:] + 1) * 32).numpy()
        true = [np.argwhere(mask == label)[:, ::-1].mean(0) for label in np.unique(mask) if label]
        distance = np.linalg.norm(found[:, None] - np.array(true)[None], axis=2)
        rows, columns = linear_sum_assignment(distance)
        near += [*(distance[rows, columns] < 4), *[False] * (len(true) - len(rows))]
    assert np.mean(near) > 0.85


def test_colours_are_those_of_the_objects() -> None:
    images = squares((4, 24, 12, 12), (26, 6, 8, 4))
    seeds = find_seeds(images, torch.zeros_like(images), 0.1, 2)
    expected = torch.tensor([[0.0, 0, 0], [0, 1, 0], [1, 0, 0], [0, 0, 0]])
    torch.testing.assert_close(seeds.colours[0], expected)


def test_descriptions_are_zero_without_a_seed() -> None:
    images = squares((4, 24, 12, 12))
    seeds = find_seeds(images, torch.zeros_like(images), 0.1, 2)
    described = seeds.described()
    assert described.shape == (1, 4, SEED_SIZE)
    assert described[0, 2].tolist() == pytest.approx([1, *seeds.where[0, 2].tolist(), 2, -2, -2])
    assert not described[0, [0, 1, 3]].any()


def test_the_posterior_begins_at_the_seeds() -> None:
    torch.manual_seed(0)
    head = ObjectHead(8, 3, presence_bound=6.0, scale=-0.4)
    for layer in (head.where, head.presence):
        torch.nn.init.zeros_(layer.weight)
    torch.nn.init.zeros_(head.presence.bias)
    images = squares((4, 24, 12, 12), (26, 6, 8, 4))
    seeds = find_seeds(images, torch.zeros_like(images), 0.1, 2)
    objects = head(torch.randn(1, 4, 8), 0.5, seeds)
    torch.testing.assert_close(objects.where.mean[seeds.there], seeds.where[seeds.there])
    torch.testing.assert_close(objects.where.mean[~seeds.there], torch.tensor([[-0.4, 0.0, 0.0, 0.0]] * 2))
    assert (objects.presence > 0).equal(seeds.there)
    assert (objects.presence.abs() < 3).all()  # half the bound


def test_images_decide_alone_where_seeding_is_off() -> None:
    """The published model has no seeds and none of their parameters."""
    settings = {**TINY["gnm"], "cluster_init": False}
    assert GNM(**settings).seed_layer is None
    torch.manual_seed(0)
    model, images = GNM(**settings).eval(), make_images()
    torch.testing.assert_close(model.infer(images).objects.presence, model.head(model.encoder(images)).presence)


def test_a_new_model_finds_objects_once_it_knows_the_background(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = GNM(**TINY["gnm"]).eval()
    images = torch.zeros(1, 3, SIZE, SIZE)
    images[:, 0, 9:14, 2:7] = 1
    monkeypatch.setattr(model.background, "paint", lambda latent: torch.zeros(1, 3, SIZE, SIZE))
    objects = model.infer(images).objects
    assert (objects.presence > 0).tolist() == [[False, False, True, False]]
    middle = place(objects.where.mean, 2)[0, 2, 2:]
    torch.testing.assert_close(middle, torch.tensor([-0.4375, 0.4375]), atol=0.1, rtol=0)


def test_the_painting_that_seeds_need_leaves_autocast_no_weights_without_a_gradient(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Older releases of torch cache what autocast converts under `no_grad`, and use it in the rest of the step."""
    model = GNM(**TINY["gnm"])
    paint, safe = model.background.paint, []

    def watched(latent: torch.Tensor) -> torch.Tensor:
        safe.append(torch.is_grad_enabled() or not torch.is_autocast_cache_enabled())
        return paint(latent)

    monkeypatch.setattr(model.background, "paint", watched)
    with torch.autocast("cpu", torch.bfloat16):
        loss = model.losses({"image": make_images()})["loss"]
    loss.backward()  # type: ignore[no-untyped-call]
    assert safe == [True, True]
    assert all(parameter.grad is not None for parameter in model.parameters())
