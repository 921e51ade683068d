import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment

from object_discovery.metrics import linear_assignment

BATCH = 25


def random_costs(kind: str, shape: tuple[int, int], generator: np.random.Generator) -> np.ndarray:
    size = (BATCH, *shape)
    if kind == "integers":
        return generator.integers(0, 4, size).astype(float)  # many ties
    if kind == "negative":
        return generator.normal(size=size) * 100
    if kind == "sparse":
        return generator.random(size) * (generator.random(size) < 0.3)  # like IoUs
    return np.repeat(generator.random((BATCH, 1, shape[1])), shape[0], axis=1)  # equal rows


@pytest.mark.parametrize("kind", ["integers", "negative", "sparse", "equal"])
@pytest.mark.parametrize("maximize", [False, True])
@pytest.mark.parametrize("batched", [False, True])
def test_total_cost_equals_scipy(kind: str, maximize: bool, batched: bool) -> None:
    generator = np.random.default_rng(0)
    for rows, columns in [(1, 1), (1, 6), (5, 1), (3, 3), (7, 7), (4, 6), (6, 4), (3, 40), (8, 5), (11, 11), (2, 5)]:
        cost = random_costs(kind, (rows, columns), generator)
        result = linear_assignment(torch.from_numpy(cost), maximize=maximize, batched=batched).numpy()
        assert result.shape == (BATCH, rows)
        for matrix, column in zip(cost, result, strict=True):
            row = np.flatnonzero(column >= 0)
            assert len(row) == len(set(column[row])) == min(rows, columns)
            expected = matrix[linear_sum_assignment(matrix, maximize=maximize)].sum()
            np.testing.assert_allclose(matrix[row, column[row]].sum(), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("batched", [None, True])
def test_assignment_equals_scipy_without_ties(batched: bool | None) -> None:
    cost = np.random.default_rng(1).random((200, 7, 12))
    result = linear_assignment(torch.from_numpy(cost), batched=batched).numpy()
    expected = [linear_sum_assignment(matrix)[1] for matrix in cost]
    assert (result == np.stack(expected)).all()


@pytest.mark.parametrize("batched", [False, True])
def test_half_precision_costs_are_converted_to_float64_under_autocast(batched: bool) -> None:
    cost = torch.randn(50, 6, 6, dtype=torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        result = linear_assignment(cost, batched=batched)
    assert torch.equal(result, linear_assignment(cost.double(), batched=batched))


def test_nan_in_one_matrix_leaves_the_others_unchanged() -> None:
    cost = torch.rand(3, 4, 4)
    cost[1, 2, 3] = torch.nan
    assert torch.equal(linear_assignment(cost)[[0, 2]], linear_assignment(cost[[0, 2]]))


def test_batched_solver_does_not_synchronise_with_the_device() -> None:
    for rows, columns in ((4, 30), (5, 2)):  # values on the meta device cannot be read
        assert linear_assignment(torch.rand(3, rows, columns, device="meta")).shape == (3, rows)


@pytest.mark.parametrize("batched", [False, True])
def test_empty_problems(batched: bool) -> None:
    assert linear_assignment(torch.zeros(0, 3, 4), batched=batched).shape == (0, 3)
    assert linear_assignment(torch.zeros(2, 3, 0), batched=batched).tolist() == [[-1, -1, -1]] * 2


def test_costs_that_are_not_three_dimensional_are_refused() -> None:
    with pytest.raises(ValueError, match="`cost` to be of shape"):
        linear_assignment(torch.zeros(3, 4))
