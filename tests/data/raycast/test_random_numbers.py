import numpy as np
import pytest
from scipy import stats

from object_discovery.data.raycast.random_numbers import integers, splitmix64, uniform

GOLDEN = 0x9E3779B97F4A7C15


def test_splitmix64_equals_the_reference_implementation() -> None:
    # the first outputs of the reference implementation (prng.di.unimi.it/splitmix64.c) for the state 1234567
    expected = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]
    states = np.array([(1234567 + k * GOLDEN) % 2**64 for k in range(4)], dtype=np.uint64)
    assert splitmix64(states).tolist() == expected


def test_uniform_does_not_depend_on_the_batch() -> None:
    batch = uniform(np.arange(10), 4, seed=7, stream=2)
    np.testing.assert_array_equal(uniform([8, 3], 4, seed=7, stream=2), batch[[8, 3]])
    np.testing.assert_array_equal(uniform(np.arange(10), 2, seed=7, stream=2), batch[:, :2])


def test_uniform_has_fixed_values() -> None:
    assert (uniform([0, 5], 2, seed=1, stream=3) * 2**53).astype(np.int64).tolist() == [
        [6819207413353110, 8063818086970127],
        [5240080611820475, 8563636205172732],
    ]


def test_uniform_passes_a_kolmogorov_smirnov_test() -> None:
    numbers = uniform(np.arange(20_000), 3, seed=0)
    assert np.min(numbers) >= 0
    assert np.max(numbers) < 1
    assert stats.kstest(numbers.ravel(), "uniform").pvalue > 1e-3


@pytest.mark.parametrize("other", [{"seed": 1}, {"stream": 1}, {"seed": 2**40}])
def test_seeds_and_streams_are_uncorrelated(other: dict[str, int]) -> None:
    a, b = uniform(np.arange(20_000), 1)[:, 0], uniform(np.arange(20_000), 1, **other)[:, 0]
    assert abs(np.corrcoef(a, b)[0, 1]) < 0.03


def test_consecutive_scenes_and_positions_are_uncorrelated() -> None:
    numbers = uniform(np.arange(20_000), 2)
    assert abs(np.corrcoef(numbers[:-1, 0], numbers[1:, 0])[0, 1]) < 0.03
    assert abs(np.corrcoef(numbers[:, 0], numbers[:, 1])[0, 1]) < 0.03


def test_integers_pass_a_chi_squared_test() -> None:
    numbers = integers(uniform(np.arange(30_000), 1)[:, 0], 6)
    assert stats.chisquare(np.bincount(numbers, minlength=6)).pvalue > 1e-3
    assert np.max(numbers) == 5


def test_integers_broadcast_the_range() -> None:
    assert integers(np.array([0.999, 0.999]), [2, 10]).tolist() == [1, 9]
