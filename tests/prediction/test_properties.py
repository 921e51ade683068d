import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from object_discovery import SetPrediction
from object_discovery.data.object_encoding import encode_objects
from object_discovery.data.raycast.layout import COLOURS
from object_discovery.predict import main
from object_discovery.prediction.properties import floor_plan, objects_table, predicted_objects
from tests.checkpoints import save_tiny

POSITIONS = [[1.5, -2.0, 0.7], [-3.0, 3.0, 0.35]]
CODES = [[0, 1, 2, 3], [1, 0, 0, 7]]  # large metal green cylinder; small rubber yellow cube


def true_rows() -> torch.Tensor:
    return torch.from_numpy(encode_objects(POSITIONS, CODES, max_objects=4))


def test_encoded_objects_are_decoded() -> None:
    rows = true_rows()
    rows[1, -1] = 0.7
    first, second = predicted_objects(rows)
    assert (first.slot, first.shape, first.color, first.material, first.size) == (
        0,
        "cylinder",
        "green",
        "metal",
        "large",
    )
    assert (second.slot, second.shape, second.color, second.material, second.size) == (
        1,
        "cube",
        "yellow",
        "rubber",
        "small",
    )
    assert [[item.x, item.y, item.z] for item in (first, second)] == pytest.approx(np.array(POSITIONS))
    assert (first.confidence, second.confidence) == (1.0, 0.7)


def test_objects_are_sorted_by_confidence_and_those_below_the_threshold_dropped() -> None:
    rows = true_rows()
    rows[:, -1] = torch.tensor([0.6, 0.9, 0.5, 0.49])
    assert [item.slot for item in predicted_objects(rows)] == [1, 0, 2]
    assert [item.slot for item in predicted_objects(rows, 0.8)] == [1]
    assert predicted_objects(rows, 0.95) == []


def test_rows_of_another_shape_are_refused() -> None:
    with pytest.raises(ValueError, match=r"`rows` to be \(K, 19\), but got \(1, 4, 19\)"):
        predicted_objects(true_rows()[None])


def test_table_has_every_property() -> None:
    console = Console(width=100, record=True)
    with console.capture() as captured:
        console.print(objects_table(predicted_objects(true_rows())))
    line = next(line for line in captured.get().splitlines() if "cylinder" in line)
    assert line.replace("│", " ").split() == [
        *("0", "cylinder", "green", "metal", "large"),
        *("1.50", "-2.00", "0.70", "1.00"),
    ]


def test_floor_plan_has_the_camera_at_the_bottom() -> None:
    near, far, left, right = (  # the camera is at about (7, -7) and points at the origin
        floor_plan(predicted_objects(torch.from_numpy(encode_objects([[x, y, 0.7]], [[0, 0, 0, 1]]))), 200)
        for x, y in ((2.0, -2.0), (-2.0, 2.0), (-2.0, -2.0), (2.0, 2.0))
    )

    def centre(picture: torch.Tensor) -> list[float]:
        red = (picture == torch.tensor(COLOURS["red"])[:, None, None]).all(0).nonzero()
        assert len(red) > 50
        return red.float().mean(0).tolist()  # type: ignore[no-any-return]

    assert near.shape == (3, 200, 200)
    assert near.dtype == torch.uint8
    assert centre(near)[0] > 120 > 80 > centre(far)[0]
    assert centre(left)[1] < 80 < 120 < centre(right)[1]


def test_command_lists_the_objects(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    model = SetPrediction(resolution=16, num_slots=3, slot_size=16, mlp_size=16, head_size=16)
    last = model.head[-1]
    assert isinstance(last, torch.nn.Linear)
    with torch.no_grad():
        last.bias[-1] = 4.0
    content = {
        "state_dict": model.state_dict(),
        "hyper_parameters": dict(model.hparams),
        "model_type": "set_prediction",
    }
    torch.save({**content, "pytorch-lightning_version": "2.5.0"}, tmp_path / "tiny.ckpt")
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 30, 3)).astype(np.uint8)).save(tmp_path / "a.png")
    flags = ["--checkpoint", str(tmp_path / "tiny.ckpt"), "--out", str(tmp_path / "out")]
    main([str(tmp_path / "a.png"), *flags])
    printed = capsys.readouterr().out
    result = json.loads((tmp_path / "out" / "a" / "objects.json").read_text())
    assert len(result["objects"]) == 3
    assert all(item["confidence"] > 0.5 for item in result["objects"])
    for item in result["objects"]:
        assert {"x", "y", "z", "shape", "color", "material", "size", "slot"} < item.keys()
        assert item["shape"] in printed
    assert "3 objects" in printed
    assert Image.open(tmp_path / "out" / "a" / "plan.png").size == (320, 320)
    main([str(tmp_path / "a.png"), *flags, "--confidence", "1"])
    assert json.loads((tmp_path / "out" / "a" / "objects.json").read_text())["objects"] == []
    other = save_tiny(tmp_path / "sa.ckpt")
    main([str(tmp_path / "a.png"), "--out", str(tmp_path / "out"), "--checkpoint", str(other)])
    assert not (tmp_path / "out" / "a" / "plan.png").exists()  # of the other model
    with pytest.raises(SystemExit):
        main([str(tmp_path / "a.png"), *flags, "--confidence", "2"])
    assert "`confidence` to be in [0, 1]" in capsys.readouterr().err
