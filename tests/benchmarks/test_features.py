import pytest

from object_discovery.benchmark import main
from object_discovery.benchmarks.features import FeatureBenchmarkParams, run

TINY = {"encoder": "test_vit", "resolution": 32, "decoder_size": 16, "slot_size": 16, "num_images": 5}


def test_report_has_all_measurements_and_the_target() -> None:
    report = run(FeatureBenchmarkParams(**TINY, batch_size=2, num_steps=3, repeats=2))  # type: ignore[arg-type]
    names = [row.name for row in report.measurements]
    assert names == [
        "generating and caching, an image",
        "step, features in memory",
        "step, features from the cache",
        "step with the encoder",
        "reading the cache",
    ]
    assert all(row.median > 0 for row in report.measurements)
    assert report.ratios[0].target == pytest.approx(1 / 1.1)


@pytest.mark.parametrize(
    ("flag", "message"),
    [("num_steps=0", "`num_steps` to be at least 1"), ("decoder=cnn", "`decoder` to be mlp or transformer")],
)
def test_invalid_settings_are_refused(flag: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["features", f"--{flag}"])
    assert message in capsys.readouterr().err
