import pytest

from object_discovery.benchmarks.dinosaur import DINOSAURBenchmarkParams, run
from object_discovery.benchmarks.report import BenchmarkReport
from object_discovery.errors import UserError

SLOT_SIZE, HIDDEN_SIZE, FEATURE_SIZE, SLOTS, PATCHES, TOP_K = 256, 32, 64, 7, 4, 3


@pytest.fixture(scope="module")
def report() -> BenchmarkReport:
    return run(
        DINOSAURBenchmarkParams(
            encoder="test_vit",
            resolution=32,
            decoder_size=HIDDEN_SIZE,
            top_k=TOP_K,
            batch_size=2,
            repeats=1,
            precision="32-true",
        )
    )


def flops(report: BenchmarkReport, name: str) -> float:
    (measurement,) = (row for row in report.measurements if row.name == f"{name}, arithmetic")
    assert measurement.unit == "GFLOP an image"
    return measurement.median * 1e9


def test_flops_of_the_decoders_equal_the_formula_of_their_layers(report: BenchmarkReport) -> None:
    # MACs, of which there are 3 passes: forward, and backward to weights and inputs
    d, h, f, k, n = SLOT_SIZE, HIDDEN_SIZE, FEATURE_SIZE, SLOTS, PATCHES
    assert flops(report, "decoder, reference MLP") == pytest.approx(2 * 3 * k * n * (d * h + 2 * h * h + h * (f + 1)))
    positions = 3 * n * d * h / 2  # computed once for both images of the batch
    shared = 3 * (k * d * h + n * h * f) + positions
    slot = 3 * n * (2 * h * h + h)  # hidden layers and alpha logit of one slot
    blending = 3 * n * h
    assert flops(report, "decoder, MLP") == pytest.approx(2 * (shared + k * (slot + blending)))
    selection = 2 * n * TOP_K * k * h  # one-hot rows, which have no gradient
    expected = 2 * (shared + TOP_K * (slot + blending) + selection)
    assert flops(report, f"decoder, MLP, top {TOP_K}") == pytest.approx(expected)


def test_shares_sum_to_one_and_steps_are_compared(report: BenchmarkReport) -> None:
    ratios = {ratio.name: ratio.ratio for ratio in report.ratios}
    for decoder in ("MLP", f"MLP, top {TOP_K}", "transformer"):
        for method in ("arithmetic", "measured"):
            shares = [
                ratios[f"share of the {part}, {decoder}, {method}"] for part in ("encoder", "Slot Attention", "decoder")
            ]
            assert sum(shares) == pytest.approx(1)
            assert min(shares) > 0
        assert ratios[f"step with the encoder / from features, {decoder}"] > 0
        from_features = flops(report, f"step from features, {decoder}")
        with_encoder = flops(report, f"step with the encoder, {decoder}")
        assert with_encoder == pytest.approx(from_features + flops(report, "encoder"))
    assert ratios["decoder, reference MLP / MLP"] > 0


def test_step_from_features_is_slot_attention_and_decoder(report: BenchmarkReport) -> None:
    for decoder in ("MLP", "transformer"):
        parts = flops(report, "Slot Attention") + flops(report, f"decoder, {decoder}")
        assert flops(report, f"step from features, {decoder}") == pytest.approx(parts, rel=0.05)


def test_invalid_settings_are_refused() -> None:
    with pytest.raises(UserError, match="slate_clevr is of slate"):
        run(DINOSAURBenchmarkParams(config="slate_clevr"))
    with pytest.raises(ValueError, match=r"`repeats` to be at least 1, but got 0"):
        DINOSAURBenchmarkParams(repeats=0)
    with pytest.raises(ValueError, match=r"`precision` to be auto, bf16-mixed or 32-true, but got '16'"):
        DINOSAURBenchmarkParams(precision="16")
