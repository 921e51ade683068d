import re

import numpy as np
import pytest

from object_discovery.data.object_encoding import ATTRIBUTES, attribute_codes, encode_objects


def test_columns_are_position_size_material_shape_colour_and_presence() -> None:
    attributes = {"size": "small", "material": "rubber", "shape": "sphere", "color": "yellow"}
    rows = encode_objects([[-3.0, 1.5, 0.35]], [attribute_codes(attributes)])
    expected = np.zeros((10, 19))
    expected[0, :3] = [0, 0.75, (0.35 + 3) / 6]
    expected[0, [3 + 1, 5 + 0, 7 + 1, 10 + 7, 18]] = 1
    assert rows.dtype == np.float32
    np.testing.assert_allclose(rows, expected, atol=1e-7)


def test_every_value_has_a_unique_column() -> None:
    columns = set()
    for first, (attribute, values) in zip((3, 5, 7, 10), ATTRIBUTES.items(), strict=True):
        for index, value in enumerate(values):
            attributes = {name: others[0] for name, others in ATTRIBUTES.items()} | {attribute: value}
            row = encode_objects(np.zeros((1, 3)), [attribute_codes(attributes)], max_objects=1)[0]
            assert row[3:18].sum() == 4
            assert row[first + index] == 1
            columns.add(first + index)
    assert columns == set(range(3, 18))


def test_objects_keep_their_order_and_padding_is_zero() -> None:
    coords = np.random.default_rng(0).uniform(-3, 3, (4, 3))
    rows = encode_objects(coords, np.zeros((4, 4)), max_objects=6)
    np.testing.assert_allclose(rows[:4, :3] * 6 - 3, coords, atol=1e-6)
    np.testing.assert_array_equal(rows[:, 18], [1, 1, 1, 1, 0, 0])
    assert not rows[4:].any()


def test_a_scene_without_objects_is_zero() -> None:
    assert encode_objects([], []).shape == (10, 19)
    assert not encode_objects([], []).any()


def test_too_many_objects_and_invalid_codes_are_refused() -> None:
    with pytest.raises(ValueError, match="`coords` to have at most 10 objects, but got 11"):
        encode_objects(np.zeros((11, 3)), np.zeros((11, 4)))
    for codes in ([[0, 0, 3, 0]], [[0, 0, -1, 0]], []):
        with pytest.raises(ValueError, match=r"`codes` to be 1 x 4 indices into ATTRIBUTES, but got \["):
            encode_objects(np.zeros((1, 3)), codes)


def test_unknown_attributes_are_refused() -> None:
    known = {"size": "small", "material": "rubber", "shape": "sphere", "color": "yellow"}
    expected = "Expected the shape of an object to be one of cube, sphere, cylinder, but got 'cone'"
    with pytest.raises(ValueError, match=re.escape(expected)):
        attribute_codes(known | {"shape": "cone"})
    with pytest.raises(ValueError, match=r"the color of an object to be one of gray, .*, but got None"):
        attribute_codes({key: value for key, value in known.items() if key != "color"})
