import math

import pytest

from object_discovery.schedules import Plateau, cosine_anneal, learning_rate_factor, linear_anneal


def published_learning_rate(step: int) -> float:
    """Learning rate of Locatello et al. 2020: peak 4e-4, 10,000 warm-up steps, half-life of 100,000 steps."""
    return 4e-4 * learning_rate_factor(
        step, warmup_steps=10_000, schedule="exponential", decay_steps=0, half_life=100_000
    )


@pytest.mark.parametrize(
    ("step", "rate"),
    [(0, 0.0), (5_000, 1.9318e-4), (10_000, 3.7321e-4), (100_000, 2e-4), (110_000, 1.8661e-4), (500_000, 1.25e-5)],
)
def test_published_learning_rate(step: int, rate: float) -> None:
    assert published_learning_rate(step) == pytest.approx(rate, rel=1e-4)


def test_published_learning_rate_peaks_at_end_of_warmup() -> None:
    assert max(range(0, 500_000, 1000), key=published_learning_rate) == 10_000


def cosine_factor(step: int, warmup_steps: int = 10, decay_steps: int = 50) -> float:
    return learning_rate_factor(
        step, warmup_steps=warmup_steps, schedule="cosine", decay_steps=decay_steps, half_life=1
    )


def test_cosine_has_linear_warmup_and_decays_to_zero() -> None:
    assert [cosine_factor(step) for step in (0, 1, 5, 9)] == pytest.approx([0, 0.1, 0.5, 0.9])
    assert cosine_factor(10) == 1
    assert cosine_factor(20) == pytest.approx(0.5 + 0.5 * math.cos(math.pi / 4))
    assert cosine_factor(30) == pytest.approx(0.5)
    assert cosine_factor(40) == pytest.approx(0.5 - 0.5 * math.cos(math.pi / 4))
    assert [cosine_factor(step) for step in (50, 51, 1000)] == pytest.approx([0, 0, 0])


def test_cosine_without_warmup_starts_at_one() -> None:
    assert [cosine_factor(step, warmup_steps=0) for step in (0, 25, 50)] == pytest.approx([1, 0.5, 0])


def test_cosine_with_decay_steps_below_warmup_steps() -> None:
    assert [cosine_factor(step, decay_steps=5) for step in (0, 5, 9)] == pytest.approx([0, 0.5, 0.9])
    assert cosine_factor(10, decay_steps=5) == 0


def test_constant_is_one_after_warmup() -> None:
    def factor(step: int, warmup_steps: int) -> float:
        return learning_rate_factor(step, warmup_steps=warmup_steps, schedule="constant", decay_steps=20, half_life=1)

    assert [factor(step, 10) for step in (0, 5, 10, 1000)] == [0, 0.5, 1, 1]
    assert factor(0, 0) == 1


def test_exponential_without_warmup() -> None:
    factors = [
        learning_rate_factor(step, warmup_steps=0, schedule="exponential", decay_steps=0, half_life=10)
        for step in (0, 10, 20)
    ]
    assert factors == [1, 0.5, 0.25]


def test_cosine_anneal_matches_formula_and_stays_at_end() -> None:
    # the temperature of SLATE: 0.45 cos(pi t / 30,000) + 0.55, then 0.1
    for step in (0, 1, 7_500, 15_000, 29_999):
        expected = 0.45 * math.cos(math.pi * step / 30_000) + 0.55
        assert cosine_anneal(step, 1.0, 0.1, 30_000) == pytest.approx(expected)
    assert cosine_anneal(30_000, 1.0, 0.1, 30_000) == 0.1
    assert cosine_anneal(10**9, 1.0, 0.1, 30_000) == 0.1


def test_cosine_anneal_ascending_and_of_zero_steps() -> None:
    assert cosine_anneal(5, 0.0, 2.0, 10) == pytest.approx(1.0)
    assert cosine_anneal(0, 0.0, 2.0, 0) == 2.0


def test_plateau_halves_after_patience_losses_without_improvement() -> None:
    plateau = Plateau(patience=4)
    factors = []
    for loss in [5.0, 4.0, 4.0, 4.1, 4.0, 3.9, 4, 4, 4, 4, 4, 4, 4, 3.9, 1.0, 2, 2, 2, 2]:
        plateau.update(loss)
        factors.append(plateau.factor)
    # improvements at 0, 1, 5 and 14; halvings at the 4th and 8th loss after 5, and at the 4th after 14
    assert factors == [1.0] * 9 + [0.5] * 4 + [0.25] * 5 + [0.125]
    assert (plateau.best, plateau.waited, plateau.halvings) == (1.0, 0, 3)


def test_nan_loss_is_no_improvement() -> None:
    plateau = Plateau(patience=1)
    plateau.update(math.nan)
    assert (plateau.best, plateau.halvings) == (math.inf, 1)


@pytest.mark.parametrize(("step", "expected"), [(0, 0.0), (50, 0.5), (100, 1.0), (300, 0.5), (500, 0.25)])
def test_delayed_exponential_decays_after_warmup(step: int, expected: float) -> None:
    factor = learning_rate_factor(step, warmup_steps=100, schedule="delayed_exponential", decay_steps=0, half_life=200)
    assert factor == pytest.approx(expected)


@pytest.mark.parametrize(("step", "expected"), [(0, 3.0), (10, 3.0), (11, 2.9), (15, 2.5), (20, 2.0), (10**12, 2.0)])
def test_linear_anneal(step: int, expected: float) -> None:
    assert linear_anneal(step, 3.0, 2.0, 10, 20) == pytest.approx(expected)


def test_linear_anneal_of_zero_steps() -> None:
    assert [linear_anneal(step, 3.0, 2.0, 5, 5) for step in (4, 5, 6)] == [3.0, 2.0, 2.0]
