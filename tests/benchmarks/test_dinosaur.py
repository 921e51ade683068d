import pytest

from object_discovery.benchmarks.dinosaur import DINOSAURBenchmarkParams, run
from object_discovery.benchmarks.report import BenchmarkReport
from object_discovery.errors import UserError

D, H, F, K, N, TOP = 256, 32, 64, 7, 4, 3
"""Slot size, hidden size, feature size, slots, patches and decoded slots of what is measured."""


@pytest.fixture(scope="module")
def report() -> BenchmarkReport:
    return run(
        DINOSAURBenchmarkParams(
            encoder="test_vit", resolution=32, decoder_size=H, top_k=TOP, batch_size=2, repeats=1, precision="32-true"
        )
    )


def count(report: BenchmarkReport, name: str) -> float:
    (found,) = (measure for measure in report.measures if measure.name == f"{name}, by arithmetic")
    assert found.unit == "GFLOP an image"
    return found.median * 1e9


def test_the_decoders_are_counted_as_by_hand(report: BenchmarkReport) -> None:
    # forward, and backward to weights and inputs; a multiplication and an addition each
    assert count(report, "decoder, MLP as published") == 2 * 3 * K * N * (D * H + 2 * H * H + H * (F + 1))
    positions = 3 * N * D * H / 2  # once for both images of the batch
    shared = 3 * (K * D * H + N * H * F) + positions
    each = 3 * N * (2 * H * H + H)  # hidden layers and opacity of a slot
    blend = 3 * N * H
    assert count(report, "decoder, MLP") == 2 * (shared + K * (each + blend))
    choice = 2 * N * TOP * K * H  # one-hot rows have no gradient
    assert count(report, f"decoder, MLP, top {TOP}") == 2 * (shared + TOP * (each + blend) + choice)


def test_the_encoder_is_counted_as_by_hand(report: BenchmarkReport) -> None:
    tokens, width, blocks, patch = N + 1, 64, 6, 16
    linear = tokens * width * (3 * width + width + 2 * 3 * width)  # the MLP is three times as wide
    attention = 2 * tokens * tokens * width
    assert count(report, "encoder") == 2 * (blocks * (linear + attention) + N * 3 * patch * patch * width)


def test_shares_add_up_and_steps_are_compared(report: BenchmarkReport) -> None:
    ratios = {ratio.name: ratio.ratio for ratio in report.ratios}
    for kind in ("MLP", f"MLP, top {TOP}", "transformer"):
        for how in ("by arithmetic", "measured"):
            shares = [
                ratios[f"share of the {part}, {kind}, {how}"] for part in ("encoder", "Slot Attention", "decoder")
            ]
            assert sum(shares) == pytest.approx(1)
            assert min(shares) > 0
        assert ratios[f"step with the encoder / from features, {kind}"] > 0
        from_features = count(report, f"step from features, {kind}")
        assert count(report, f"step with the encoder, {kind}") == from_features + count(report, "encoder")
    assert ratios["decoder, MLP as published / MLP"] > 0


def test_what_cannot_be_measured_is_refused() -> None:
    with pytest.raises(UserError, match="slate_clevr is of slate"):
        run(DINOSAURBenchmarkParams(config="slate_clevr"))
    with pytest.raises(ValueError, match=r"`repeats` to be at least 1, but got 0"):
        DINOSAURBenchmarkParams(repeats=0)
    with pytest.raises(ValueError, match=r"`precision` to be auto, bf16-mixed or 32-true, but got '16'"):
        DINOSAURBenchmarkParams(precision="16")
