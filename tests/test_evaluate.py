import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from sklearn.metrics import adjusted_rand_score

from object_discovery import TetrominoesDataModule
from object_discovery.evaluate import data_defaults, main
from object_discovery.evaluation.protocols import PROTOCOLS, Protocol
from object_discovery.evaluation.scoring import SplitDataModule
from tests.checkpoints import save_tiny, tiny_model

QUICK = ["--num_workers", "0", "--accelerator", "cpu"]


def run(*arguments: object) -> None:
    main([*map(str, arguments), *QUICK])


def error_of(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    capsys.readouterr()
    with pytest.raises(SystemExit) as caught:
        run(*arguments)
    assert caught.value.code == 2
    message = capsys.readouterr().err
    assert message.startswith("error: ")
    assert message.count("\n") == 1
    return message


def reference_scores(split: str, size: int, published: bool = False, **options: int) -> dict[str, float]:
    """Score the same scenes one by one by scikit-learn; with the masks of the decoder where a protocol is published."""
    data = TetrominoesDataModule(resolution=16, num_workers=0)
    model, scores = tiny_model(), []
    for index in range(size):
        scene = getattr(data, f"{split}_set")[index]
        image, mask = scene["image"][None] / 255, scene["mask"].numpy()
        with torch.no_grad():
            result = model(image, **options)
        assert result.image is not None
        objects, ari = mask > 0, {}
        for prefix, masks in (
            ("", result.decoder_masks if published else result.masks),
            ("decoder_", result.decoder_masks),
            ("posterior_", result.posterior_masks),
        ):
            assert masks is not None
            labels = masks[0].argmax(0).numpy()
            ari[f"{prefix}fg_ari"] = adjusted_rand_score(mask[objects], labels[objects])
            ari[f"{prefix}ari"] = adjusted_rand_score(mask.ravel(), labels.ravel())
        scores.append(
            {
                **ari,
                "mse": float(((result.image - image) ** 2).mean()),
                "mse_sum": float(((result.image - image) ** 2).sum()),
            }
        )
    return {name: float(np.mean([scene[name] for scene in scores])) for name in scores[0]}


@pytest.mark.parametrize(
    ("arguments", "split", "options"),
    [
        ([], "test", {}),
        (["--split", "val", "--val_size", "7"], "val", {}),
        (["--split", "train", "--train_size", "7"], "train", {}),
        (["--num_slots", "2", "--num_iterations", "1"], "test", {"num_slots": 2, "num_iterations": 1}),
    ],
)
def test_equals_scikit_learn_image_by_image(
    arguments: list[str], split: str, options: dict[str, int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint, out = save_tiny(tmp_path / "a.ckpt"), tmp_path / "new" / "scores.json"
    common = ["--checkpoint", checkpoint, "--dataset", "tetrominoes", "--test_size", "7", "--batch_size", "3"]
    run(*common, "--protocol", "clevrtex", "--out", out, *arguments)
    result = json.loads(out.read_text())
    expected = reference_scores(split, 7, published=True, **options)
    assert {name: result["scores"][name] for name in expected} == pytest.approx(expected, rel=1e-5)
    assert (result["num_scenes"], result["split"], result["protocol"]["name"]) == (7, split, "clevrtex")
    assert (result["dataset"]["dataset"], result["dataset"]["resolution"]) == ("tetrominoes", 16)
    assert result["settings"]["num_slots"] == options.get("num_slots", 3)
    assert result["settings"]["num_iterations"] == options.get("num_iterations", 1)
    printed = capsys.readouterr().out
    assert "7 scenes" in printed
    assert f"{result['scores']['fg_ari']:.4f}" in printed
    assert "n_skipped" in printed
    assert [path.name for path in out.parent.iterdir()] == ["scores.json"]


def test_protocol_limits_the_number_of_scenes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PROTOCOLS, "five", Protocol("five", "the first five", num_scenes=5))
    checkpoint, out = save_tiny(tmp_path / "a.ckpt"), tmp_path / "scores.json"
    common = ["--checkpoint", checkpoint, "--dataset", "tetrominoes", "--protocol", "five", "--out", out]
    for arguments, size in (([], 5), (["--test_size", "3"], 3), (["--test_size", "9"], 5)):
        run(*common, *arguments)
        result = json.loads(out.read_text())
        assert result["num_scenes"] == size
        assert result["scores"]["fg_ari"] == pytest.approx(reference_scores("test", size)["fg_ari"])


def test_nan_scores_are_null_in_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = {
        name: torch.full_like(value, torch.nan) if value.is_floating_point() else value
        for name, value in tiny_model().state_dict().items()
    }
    checkpoint, out = save_tiny(tmp_path / "a.ckpt", state_dict=state), tmp_path / "scores.json"
    run("--checkpoint", checkpoint, "--dataset", "tetrominoes", "--test_size", "2", "--out", out)
    assert json.loads(out.read_text())["scores"]["mse"] is None
    assert "none" in capsys.readouterr().out


def write_run(folder: Path, **settings: Any) -> Path:
    checkpoint = save_tiny(folder / "checkpoints" / "last.ckpt")
    values = {"model_type": "sa", "dataset": "tetrominoes", "num_slots": 3, "out": "runs/other", **settings}
    (folder / "params.yaml").write_text(yaml.safe_dump(values))
    return checkpoint


def test_data_defaults_are_those_of_the_run(tmp_path: Path) -> None:
    checkpoint = write_run(tmp_path, batch_size=5, data_seed=3, test_size=100, val_size=50, resolution=99)
    defaults = data_defaults(str(checkpoint), None)
    expected = {"dataset": "tetrominoes", "batch_size": 5, "data_seed": 3, "val_size": 50, "resolution": 16}
    assert defaults == expected  # without the `out`, `num_slots` and `test_size` of the run
    assert data_defaults(str(checkpoint), "multi_dsprites") == {"dataset": "multi_dsprites", "resolution": 16}
    assert data_defaults(None, None) == {}


def test_flags_override_the_settings_of_the_run(tmp_path: Path) -> None:
    checkpoint, out = write_run(tmp_path, data_seed=3), tmp_path / "scores.json"
    run("--checkpoint", checkpoint, "--test_size", "2", "--data_seed", "4", "--out", out)
    result = json.loads(out.read_text())
    assert (result["dataset"]["data_seed"], result["num_scenes"]) == (4, 2)


def test_checkpoint_may_be_the_folder_of_a_run(tmp_path: Path) -> None:
    checkpoint, out = write_run(tmp_path / "run"), tmp_path / "scores.json"
    run("--checkpoint", tmp_path / "run", "--test_size", "2", "--out", out)
    result = json.loads(out.read_text())
    assert (result["checkpoint"], result["dataset"]["dataset"]) == (str(checkpoint), "tetrominoes")


def test_help_lists_the_protocols(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    text = "".join(capsys.readouterr().out.split())  # lines may break within a name
    assert all(name in text for name in PROTOCOLS)


def test_params_are_read_from_the_folder_of_the_checkpoint_only(tmp_path: Path) -> None:
    write_run(tmp_path / "run")
    copy = save_tiny(tmp_path / "run" / "copy.ckpt")
    assert data_defaults(str(copy), None)["dataset"] == "tetrominoes"
    moved = save_tiny(tmp_path / "run" / "other" / "copy.ckpt")
    with pytest.raises(ValueError, match="Expected argument `dataset`, as no params"):
        data_defaults(str(moved), None)


def test_gaussian_slots_depend_on_the_seed(tmp_path: Path) -> None:
    model = tiny_model(slot_init="gaussian", cluster_init=False)
    state, settings = model.state_dict(), dict(model.hparams)
    checkpoint = save_tiny(tmp_path / "a.ckpt", state_dict=state, hyper_parameters=settings)
    scores = []
    for seed in ("0", "0", "1"):
        out = tmp_path / "scores.json"
        run("--checkpoint", checkpoint, "--dataset", "tetrominoes", "--test_size", "2", "--out", out, "--seed", seed)
        scores.append(json.loads(out.read_text())["scores"]["mse"])
    assert scores[0] == scores[1] != scores[2]


def test_scenes_are_loaded_once_and_in_order() -> None:
    data = TetrominoesDataModule(resolution=16, num_workers=0, batch_size=3, train_size=7)
    loaded = torch.cat([batch["mask"] for batch in SplitDataModule(data, "train").test_dataloader()])
    assert torch.equal(loaded, torch.stack([data.train_set[index]["mask"] for index in range(7)]))


def test_errors_are_reported_in_one_line_and_no_file_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = save_tiny(tmp_path / "a.ckpt")
    unknown = save_tiny(tmp_path / "foreign.ckpt", model_type="of_the_future")
    (tmp_path / "notes.txt").write_text("no checkpoint")
    before = sorted(tmp_path.rglob("*"))
    out = ["--out", tmp_path / "new" / "scores.json"]
    valid = ["--checkpoint", checkpoint, "--dataset", "tetrominoes"]
    for message, arguments in (
        ("checkpoint", []),
        ("There is no checkpoint", ["--checkpoint", tmp_path / "nowhere.ckpt"]),
        ("not a checkpoint that can be read", ["--checkpoint", tmp_path / "notes.txt"]),
        ("'of_the_future', which this version does not know", ["--checkpoint", unknown, "--dataset", "tetrominoes"]),
        ("Expected argument `dataset`, as no params.yaml", ["--checkpoint", checkpoint]),
        ("`dataset` to be one of", ["--checkpoint", checkpoint, "--dataset", "tetrominos"]),
        ("nowhere does not exist", [*valid, "--data_root", tmp_path / "nowhere"]),
        ("--slots", [*valid, "--slots", "2"]),
        ("split", [*valid, "--split", "tset"]),
        ("`num_slots` to be at most 3", [*valid, "--num_slots", "4"]),
        ("`num_slots` to be from 1 to 254, but got 0", [*valid, "--baseline", "grid", "--num_slots", "0"]),
        ("`num_slots` to be from 1 to 254, but got 255", [*valid, "--baseline", "grid", "--num_slots", "255"]),
        ("`protocol` to be one of default, slot-attention", [*valid, "--protocol", "slot"]),
        ("`resolution` to be the model's, 16, but got 64", [*valid, "--resolution", "64"]),
        ("`batch_size` to be at least 1", [*valid, "--batch_size", "0"]),
        ("`seed` to be from 0 to 2**32 - 1, but got -1", [*valid, "--seed", "-1"]),
        ("error", [*valid, "--precision", "7"]),
        ("error", [*valid, "--devices", "none"]),
        ("`min_objects`", [*valid, "--min_objects", "9"]),
        ("`out` to be writable", [*valid, "--out", tmp_path / "notes.txt" / "scores.json"]),
        ("is a folder", [*valid, "--out", tmp_path]),
    ):
        assert message in error_of(capsys, *arguments, *([] if "--out" in arguments else out))
    assert sorted(tmp_path.rglob("*")) == before


def test_invalid_params_of_a_run_are_an_error_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint = write_run(tmp_path)
    (tmp_path / "params.yaml").write_text("dataset: [")
    assert "params.yaml is not YAML" in error_of(capsys, "--checkpoint", checkpoint)
    (tmp_path / "params.yaml").write_text("dataset: no_such\n")
    assert "`dataset` to be one of" in error_of(capsys, "--checkpoint", checkpoint)
