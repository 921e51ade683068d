"""Random numbers that depend only on where they are used: a seed, a stream, a scene and a position.

A counter goes in and a number comes out, with no state between two calls. So scene 7 of seed 0 is the same scene in
every batch, in every loading process and on every machine.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

_GOLDEN = 0x9E3779B97F4A7C15
_MASK = 2**64 - 1


def splitmix64(state: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Turn each state of the SplitMix64 generator into its output.

    Args:
        state: States, any shape.

    Returns:
        64 random bits for each state, in the same shape.

    Reference:
        Steele, Lea and Flood, Fast Splittable Pseudorandom Number Generators, OOPSLA 2014.

    Example:
        >>> splitmix64(np.array([1234567], dtype=np.uint64))
        array([6457827717110365317], dtype=uint64)
    """
    z = state + np.uint64(_GOLDEN)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(z ^ (z >> np.uint64(31)))


def uniform(indices: npt.ArrayLike, draws: int, *, seed: int = 0, stream: int = 0) -> npt.NDArray[np.float64]:
    """Sample uniform numbers in [0, 1) for each scene.

    Args:
        indices: Numbers of the scenes, `(B,)`, at least 0.
        draws: Random numbers of each scene.
        seed: Seed of the dataset, at least 0.
        stream: Purpose of the numbers, at least 0; other streams are independent.

    Returns:
        Random numbers `(B, draws)`, float64; a row depends on its index, the seed and the stream only.

    Example:
        >>> together = uniform([0, 1, 2], 2, seed=3)
        >>> bool((together[1:2] == uniform([1], 2, seed=3)).all())
        True
    """
    key = splitmix64(splitmix64(np.array([seed & _MASK], dtype=np.uint64)) ^ np.uint64(stream))
    scenes = splitmix64(key ^ np.asarray(indices, dtype=np.uint64))[:, None]
    bits = splitmix64(scenes + np.arange(draws, dtype=np.uint64) * np.uint64(_GOLDEN))
    return np.asarray((bits >> np.uint64(11)) * 2.0**-53, dtype=np.float64)


def integers(numbers: npt.NDArray[np.float64], high: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """Turn uniform numbers into integers.

    Args:
        numbers: Numbers in [0, 1), any shape.
        high: Number of values, at least 1; broadcast against `numbers`.

    Returns:
        Integers in [0, high), int64.

    Example:
        >>> integers(np.array([0.0, 0.5, 0.99]), 6)
        array([0, 3, 5])
    """
    return np.asarray(np.floor(numbers * np.asarray(high)), dtype=np.int64)
