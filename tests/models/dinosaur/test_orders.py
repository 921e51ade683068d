import pytest
import torch

from object_discovery.models.dinosaur.orders import patch_orders


@pytest.mark.parametrize(("height", "width"), [(1, 1), (2, 3), (4, 4), (5, 2)])
def test_orders_are_permutations_of_the_patches(height: int, width: int) -> None:
    orders = patch_orders(height, width)
    assert orders.shape == (9, height * width)
    assert torch.equal(orders.sort(1).values, torch.arange(height * width).expand(9, -1))


def test_raster_orders_start_at_every_corner_along_rows_and_columns() -> None:
    orders = patch_orders(3, 4).tolist()
    assert orders[0] == list(range(12))
    assert sorted((order[0], order[1]) for order in orders[:8]) == [
        (0, 1), (0, 4), (3, 2), (3, 7), (8, 4), (8, 9), (11, 7), (11, 10),
    ]  # fmt: skip
    assert len({tuple(order) for order in orders}) == 9


def test_last_order_is_an_inward_spiral() -> None:
    assert patch_orders(3, 4)[8].tolist() == [0, 1, 2, 3, 7, 11, 10, 9, 8, 4, 5, 6]
