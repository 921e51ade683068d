import pytest

from object_discovery.benchmark import main
from object_discovery.benchmarks.features import FeatureBenchmarkParams, run

TINY = {"encoder": "test_vit", "resolution": 32, "decoder_size": 16, "slot_size": 16, "num_images": 5}


def test_steps_are_measured_and_compared() -> None:
    report = run(FeatureBenchmarkParams(**TINY, batch_size=2, steps=3, repeats=2))  # type: ignore[arg-type]
    names = [measure.name for measure in report.measures]
    assert names == [
        "drawing and caching, an image",
        "step, features in memory",
        "step, features from the cache",
        "step, features computed in it",
        "reading alone",
    ]
    assert all(measure.median > 0 for measure in report.measures)
    assert report.ratios[0].at_least == pytest.approx(1 / 1.1)


@pytest.mark.parametrize(
    ("flag", "message"),
    [("steps=0", "`steps` to be at least 1"), ("decoder=cnn", "`decoder` to be mlp or transformer")],
)
def test_settings_that_cannot_work_are_refused(flag: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["features", f"--{flag}"])
    assert message in capsys.readouterr().err
