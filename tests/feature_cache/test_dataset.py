from pathlib import Path

import torch

from object_discovery.data.loaders import make_loader
from object_discovery.feature_cache import CachedFeatureDataset, scene_numbers
from tests.feature_cache.tiny_cache import make_data, make_encoder, write


def make_dataset(root: Path, views: int = 2, images: bool = True) -> CachedFeatureDataset:
    data = make_data(root)
    return CachedFeatureDataset(data.train_set, write(root, views=views), scene_numbers(data.train_set), views, images)


def test_features_match_plain_and_mirrored_images(tmp_path: Path) -> None:
    cached, encoder = make_dataset(tmp_path), make_encoder()
    size = len(cached)
    batch = cached[[2, 2 + size, 5 + size, 0]]
    stored = make_data(tmp_path).train_set[[2, 2, 5, 0]]
    for number, mirrored in enumerate((False, True, True, False)):
        for key in ("image", "mask", "classes"):
            expected = stored[key][number].flip(-1) if mirrored else stored[key][number]
            assert torch.equal(batch[key][number], expected)
    expected = encoder(batch["image"].float() / 255)
    torch.testing.assert_close(batch["features"].float(), expected, rtol=2**-10, atol=1e-6)
    assert not torch.equal(batch["features"][0], batch["features"][1])


def test_dataset_without_images_reads_features_only(tmp_path: Path) -> None:
    cached = make_dataset(tmp_path, images=False)
    expected = make_dataset(tmp_path)[[1, 3]]["features"]
    for path in (tmp_path / "coco" / "train2017").iterdir():
        path.unlink()
    batch = cached[[1, 3]]
    assert batch["image"].shape == (2, 3, 0, 0)
    assert torch.equal(batch["features"], expected)
    assert cached[1].keys() == {"image", "features"}


def test_training_views_are_random_and_an_epoch_can_be_resumed(tmp_path: Path) -> None:
    cached = make_dataset(tmp_path, images=False)

    def epoch(number: int, skipped: int = 0) -> list[torch.Tensor]:
        loader = make_loader(cached, train=True, batch_size=2, num_workers=0)
        loader.sampler.set_epoch(number)  # type: ignore[attr-defined]
        loader.load_state_dict({"batches": skipped})
        return [batch["features"] for batch in loader]

    first = epoch(0)
    assert all(torch.equal(a, b) for a, b in zip(first[2:], epoch(0, 2), strict=True))
    plain = cached[list(range(len(cached)))]["features"]
    is_plain = [
        [bool((plain == features).flatten(1).all(1).any()) for batch in epoch(e) for features in batch]
        for e in range(8)
    ]
    fraction = sum(map(sum, is_plain)) / sum(map(len, is_plain))
    assert 0.25 < fraction < 0.75
    assert len({tuple(features) for features in is_plain}) > 1


def test_evaluation_uses_plain_views_in_order(tmp_path: Path) -> None:
    cached = make_dataset(tmp_path, images=False)
    loader = make_loader(cached, train=False, batch_size=4, num_workers=0)
    actual = torch.cat([batch["features"] for batch in loader])
    assert torch.equal(actual, cached[list(range(len(cached)))]["features"])
