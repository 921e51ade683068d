import runpy
from pathlib import Path
from typing import Any

import pytest

from object_discovery import evaluate, train
from object_discovery.cache_features import main
from object_discovery.layers.frozen_encoder import FrozenEncoder
from tests.data.layouts.coco import write_coco
from tests.models.tiny import TINY

SCRIPT = Path(__file__).parents[1] / "data_scripts" / "cache_features.py"


def flags(root: Path, **settings: Any) -> list[str]:
    fixed = {"dataset": "coco", "data_root": root / "coco", "num_workers": 0, "batch_size": 4, "accelerator": "cpu"}
    values = {"model_type": "dinosaur", **TINY["dinosaur"], **fixed, "feature_cache": root / "features", **settings}
    return [f"--{name}={value}" for name, value in values.items()]


def fails(capsys: pytest.CaptureFixture[str], command: Any, arguments: list[str]) -> str:
    capsys.readouterr()
    with pytest.raises(SystemExit) as caught:
        command(arguments)
    assert caught.value.code == 2
    message = capsys.readouterr().err
    assert message.startswith("error: ")
    assert message.count("\n") == 1
    return message


def test_cached_features_are_used_in_training_and_evaluation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_coco(tmp_path / "coco")
    script = runpy.run_path(str(SCRIPT))["main"]
    assert script([*flags(tmp_path), "--splits", "train,val,test", "--shard_size", "4", "--no-progress"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in printed] == ["train", "val", "test"]
    run = ["--max_steps=2", "--val_interval=2", f"--out={tmp_path / 'run'}", "--precision=32-true"]

    def fail(self: FrozenEncoder, images: Any) -> None:
        raise AssertionError("the encoder was run")

    with monkeypatch.context() as patch:
        patch.setattr(FrozenEncoder, "forward", fail)
        train.main([*flags(tmp_path), *run])
    out = capsys.readouterr().out
    assert "features: " in out
    assert (tmp_path / "run" / "images" / "step_0000002.png").exists()
    checkpoint = str(tmp_path / "run" / "checkpoints" / "last.ckpt")
    results = []
    for cache in ("none", str(tmp_path / "features")):
        scores_file = tmp_path / "scores.json"
        arguments = ["--checkpoint", checkpoint, "--protocol", "dinosaur-320", "--feature_cache", cache]
        evaluate.main([*arguments, "--baselines", "true", "--num_workers", "0", "--out", str(scores_file)])
        results.append(scores_file.read_text())
    capsys.readouterr()
    import json

    plain, cached = (json.loads(text) for text in results)
    assert plain["dataset"]["feature_cache"] == "none"  # not the setting of the run
    assert cached["scores"]["loss"] == pytest.approx(plain["scores"]["loss"], rel=1e-3)
    assert cached["scores"]["attention_mbo_i"] == pytest.approx(plain["scores"]["attention_mbo_i"], abs=0.05)
    message = fails(capsys, evaluate.main, [*arguments, "--protocol", "covloss-coco"])
    assert "are of another kind: fit crop instead of squash" in message


def test_auto_caches_the_training_features(tmp_path: Path) -> None:
    write_coco(tmp_path / "coco")
    run = ["--max_steps=1", "--num_pictures=0", f"--out={tmp_path / 'run'}", "--precision=32-true"]
    train.main([*flags(tmp_path, feature_cache="auto"), *run])
    (folder,) = (tmp_path / "coco.features").iterdir()
    assert sorted(path.name for path in folder.iterdir()) == ["00000.h5", "00000.mirrored.h5", "key.json"]


def test_mistakes_are_reported_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_coco(tmp_path / "coco")
    assert "`splits` to be some of train,val,test, but got 'all'" in fails(
        capsys, main, [*flags(tmp_path), "--splits", "all"]
    )
    assert "`shard_size` to be at least 1, but got 0" in fails(capsys, main, [*flags(tmp_path), "--shard_size", "0"])
    crops = fails(capsys, main, flags(tmp_path, random_crop=0.5))
    assert "`random_crop` to be None: random crops cannot be cached" in crops
    fixed = [f"--dataset=coco --data_root={tmp_path / 'coco'} --resolution=16 --model_type=sa"]
    assert "as sa has no frozen encoder" in fails(capsys, main, fixed[0].split())
    assert "found none: write one with" in fails(capsys, train.main, flags(tmp_path, out=tmp_path / "run"))
    assert not (tmp_path / "run").exists()
