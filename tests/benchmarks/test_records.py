from pathlib import Path
from typing import Any

import numpy as np

from object_discovery.benchmarks.records import entity_masks, generate_features, write_records
from object_discovery.data.conversion.tfrecord import read_records
from tests.data.tfrecord_writer import example, example_class


def test_records_are_in_the_published_format(tmp_path: Path) -> None:
    write_records(tmp_path / "a.tfrecords", 2, seed=3)
    records = list(read_records(tmp_path / "a.tfrecords"))
    scenes = list(generate_features(2, seed=3))
    message: Any = example_class()  # protobuf is the oracle
    for record, features in zip(records, scenes, strict=True):
        read = message.FromString(record.data).features.feature
        assert set(read) == features.keys()
        for name in ("image", "mask"):
            strings = read[name].bytes_list.value
            assert set(map(len, strings)) == {1}
            assert b"".join(strings) == features[name].tobytes()
        np.testing.assert_array_equal(read["visibility"].float_list.value, features["visibility"])
        assert abs(len(record.data) - len(example(features))) < 1000
    assert (scenes[0]["image"] != scenes[1]["image"]).any()


def test_masks_partition_the_image() -> None:
    (features,) = generate_features(1)
    masks = features["mask"]
    assert masks.shape == (11, 240, 320, 1)
    assert masks.dtype == np.uint8
    assert ((masks == 255).sum(axis=0) == 1).all()
    objects = int(features["visibility"][1:].sum())
    assert 3 <= objects <= 10
    assert not entity_masks(np.full((2, 2), 255, np.uint8)).any()
