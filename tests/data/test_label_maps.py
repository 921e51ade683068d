from __future__ import annotations

import numpy as np
import pytest

from object_discovery.data.label_maps import compact_labels


def test_labels_follow_the_order_of_the_ids() -> None:
    ids = np.random.default_rng(0).choice([0, 3, 26001, 70_000, 255], (9, 7))
    expected = np.zeros(ids.shape, int)
    for number, value in enumerate(sorted(set(ids.ravel().tolist()) - {0}), 1):
        expected[ids == value] = number
    labels = compact_labels(ids)
    assert labels.dtype == np.uint8
    np.testing.assert_array_equal(labels, expected)


def test_ignored_ids_become_255_and_are_not_counted() -> None:
    assert compact_labels(np.array([[9, 5, 0, 7]]), ignore=7).tolist() == [[2, 1, 0, 255]]
    assert compact_labels(np.array([[9, 0]]), ignore=7).tolist() == [[1, 0]]


def test_more_than_254_objects_are_refused() -> None:
    assert compact_labels(np.arange(255)[None]).max() == 254
    with pytest.raises(ValueError, match="at most 254 objects in an image, but got 255"):
        compact_labels(np.arange(256)[None])


@pytest.mark.parametrize(
    ("ids", "message"), [(np.zeros((2, 2, 2), int), r"\(2, 2, 2\)"), (np.array([[-1]]), "at least 0, but got -1")]
)
def test_invalid_shapes_and_negative_ids_are_refused(ids: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        compact_labels(ids)


def test_an_empty_map_stays_empty() -> None:
    assert compact_labels(np.zeros((0, 3), int)).shape == (0, 3)
