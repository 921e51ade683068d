from pathlib import Path

import pytest

from object_discovery.data.resized_targets import ResizedTargetDataset
from object_discovery.feature_cache.key import files_digest, key_differences, scenes_key
from tests.feature_cache.tiny_cache import make_data


def test_key_depends_on_the_images_but_not_on_their_split(tmp_path: Path) -> None:
    plain = scenes_key("coco", make_data(tmp_path).train_set, {})
    assert scenes_key("coco", make_data(tmp_path).val_set, {}) == plain  # a subset of the same images
    assert scenes_key("coco", make_data(tmp_path, train_size=2).train_set, {}) == plain
    squashed = scenes_key("coco", make_data(tmp_path, fit="squash").train_set, {})
    assert key_differences(squashed, plain) == ["fit squash instead of crop"]
    test = scenes_key("coco", make_data(tmp_path).test_set, {})
    assert {difference.split()[0] for difference in key_differences(test, plain)} == {"images", "files"}


def test_digest_depends_on_names_and_sizes_of_files_but_not_on_the_folder(tmp_path: Path) -> None:
    source = make_data(tmp_path).train_set.source  # type: ignore[attr-defined]
    digest = files_digest(source)
    (tmp_path / "coco").rename(tmp_path / "elsewhere")
    source.images = tmp_path / "elsewhere" / "train2017"
    assert files_digest(source) == digest
    with open(source.image_files()[3], "ab") as file:
        file.write(b"x")
    assert files_digest(source) != digest
    source.image_files()[3].unlink()
    with pytest.raises(FileNotFoundError):
        files_digest(source)


def test_other_datasets_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="to be generated or stored scenes, but got ResizedTargetDataset"):
        scenes_key("coco", ResizedTargetDataset(make_data(tmp_path).train_set, 8), {})
