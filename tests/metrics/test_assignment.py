import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment
from torch._subclasses.fake_tensor import FakeTensorMode

from object_discovery.metrics import linear_assignment

BATCH = 25


def draw(kind: str, shape: tuple[int, int], generator: np.random.Generator) -> np.ndarray:
    size = (BATCH, *shape)
    if kind == "integers":
        return generator.integers(0, 4, size).astype(float)  # ties everywhere
    if kind == "negative":
        return generator.normal(size=size) * 100
    if kind == "sparse":
        return generator.random(size) * (generator.random(size) < 0.3)  # like a matrix of IoUs
    return np.repeat(generator.random((BATCH, 1, shape[1])), shape[0], axis=1)  # equal rows


@pytest.mark.parametrize("kind", ["integers", "negative", "sparse", "equal"])
@pytest.mark.parametrize("maximize", [False, True])
@pytest.mark.parametrize("batched", [False, True])
def test_total_is_that_of_scipy(kind: str, maximize: bool, batched: bool) -> None:
    generator = np.random.default_rng(0)
    for rows, columns in [(1, 1), (1, 6), (5, 1), (3, 3), (7, 7), (4, 6), (6, 4), (3, 40), (8, 5), (11, 11), (2, 5)]:
        cost = draw(kind, (rows, columns), generator)
        result = linear_assignment(torch.from_numpy(cost), maximize=maximize, batched=batched).numpy()
        assert result.shape == (BATCH, rows)
        for one_cost, column in zip(cost, result, strict=True):
            row = np.flatnonzero(column >= 0)
            assert len(row) == len(set(column[row])) == min(rows, columns)
            expected = one_cost[linear_sum_assignment(one_cost, maximize=maximize)].sum()
            np.testing.assert_allclose(one_cost[row, column[row]].sum(), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("batched", [None, True])
def test_assignment_is_that_of_scipy_without_ties(batched: bool | None) -> None:
    cost = np.random.default_rng(1).random((200, 7, 12))
    result = linear_assignment(torch.from_numpy(cost), batched=batched).numpy()
    assert all((linear_sum_assignment(one)[1] == columns).all() for one, columns in zip(cost, result, strict=True))


@pytest.mark.parametrize("batched", [False, True])
def test_half_precision_costs_are_solved_in_float64_under_autocast(batched: bool) -> None:
    cost = torch.randn(50, 6, 6, dtype=torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        result = linear_assignment(cost, batched=batched)
    assert torch.equal(result, linear_assignment(cost.double(), batched=batched))


def test_a_problem_that_is_no_number_spoils_no_other() -> None:
    cost = torch.rand(3, 4, 4)
    cost[1, 2, 3] = torch.nan
    assert torch.equal(linear_assignment(cost)[[0, 2]], linear_assignment(cost[[0, 2]]))


def test_nothing_depends_on_the_values() -> None:
    with FakeTensorMode():
        assert linear_assignment(torch.rand(3, 4, 30), batched=True).shape == (3, 4)
        assert linear_assignment(torch.rand(3, 5, 2), batched=True).shape == (3, 5)


@pytest.mark.parametrize("batched", [False, True])
def test_empty_problems(batched: bool) -> None:
    assert linear_assignment(torch.zeros(0, 3, 4), batched=batched).shape == (0, 3)
    assert linear_assignment(torch.zeros(2, 3, 0), batched=batched).tolist() == [[-1, -1, -1]] * 2


def test_other_dimensions_are_refused() -> None:
    with pytest.raises(ValueError, match="`cost` to be of shape"):
        linear_assignment(torch.zeros(3, 4))
