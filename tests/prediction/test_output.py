import json
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from object_discovery.prediction.objects import Prediction, predict
from object_discovery.prediction.output import overview, prediction_grid, write_prediction
from object_discovery.visualization.palette import MASK_ALPHA, palette
from tests.checkpoints import ByColour


def make_prediction(width: int = 32, height: int = 32, colour: str = "lime", fit: str = "squash") -> Prediction:
    image = Image.new("RGB", (width, height), "red")
    ImageDraw.Draw(image).rectangle((width // 2, 4, width // 2 + 7, 11), fill=colour)
    return predict(ByColour(resolution=16), [image], fit=fit)[0]


def test_masks_and_label_map_match_the_json(tmp_path: Path) -> None:
    prediction = make_prediction()
    assert write_prediction(prediction, tmp_path / "a", {"image": "a.png"}) == tmp_path / "a" / "picture.png"
    result = json.loads((tmp_path / "a" / "objects.json").read_text())
    assert (result["image"], result["size"], result["crop"]) == ("a.png", [32, 32], [0, 0, 32, 32])
    assert "border" in result["background_rule"]
    labels = np.asarray(Image.open(tmp_path / "a" / result["labels"]))
    assert np.array_equal(labels, prediction.labels)
    for slot in result["slots"]:
        mask = np.asarray(Image.open(tmp_path / "a" / slot["mask"]))
        assert set(np.unique(mask)) == {0, 255}
        assert np.array_equal(mask == 255, labels == slot["label"])
        rows, columns = np.nonzero(mask)
        assert slot["box"] == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        assert slot["area"] == len(rows)
    assert [(slot["slot"], slot["label"], slot["background"]) for slot in result["slots"]] == [
        (0, 0, True),
        (1, 1, False),
    ]
    names = {path.name for path in (tmp_path / "a").iterdir()}
    assert names == {"picture.png", "overlay.png", "labels.png", "mask_0.png", "mask_1.png", "objects.json"}


def test_label_map_has_the_colours_of_the_grid(tmp_path: Path) -> None:
    write_prediction(make_prediction(64, 32, "blue", fit="crop"), tmp_path, {})
    colours = np.asarray(Image.open(tmp_path / "labels.png").convert("RGB"))
    assert colours[0, 0].tolist() == [255, 255, 255]  # outside the crop
    assert colours[0, 20].tolist() == palette(1)[0].tolist()
    assert colours[8, 36].tolist() == palette(4)[3].tolist()  # slot 2


def test_overlay_has_the_size_of_the_photograph_and_the_colours_of_the_label_map(tmp_path: Path) -> None:
    image = Image.new("RGB", (600, 300), "red")
    ImageDraw.Draw(image).rectangle((200, 60, 499, 239), fill="lime")
    write_prediction(predict(ByColour(resolution=16), [image], fit="squash")[0], tmp_path, {})
    name = json.loads((tmp_path / "objects.json").read_text())["overlay"]
    overlay = np.asarray(Image.open(tmp_path / name))
    assert overlay.shape == (300, 600, 3)
    blended = (1 - MASK_ALPHA) * np.array([0, 255, 0]) + MASK_ALPHA * palette(3)[2]
    assert np.abs(overlay[150, 350] - blended).max() <= 1
    assert overlay[-1, -1].tolist() == [255, 0, 0]  # the background is unchanged


def test_masks_of_an_earlier_run_are_removed(tmp_path: Path) -> None:
    (tmp_path / "mask_9.png").touch()
    write_prediction(make_prediction(), tmp_path, {})
    assert (tmp_path / "mask_9.png").exists()  # without a result in the folder it is not a mask of an earlier run
    write_prediction(make_prediction(colour="red"), tmp_path, {})
    assert {path.name for path in tmp_path.glob("mask_*")} == {"mask_0.png"}


def test_grids_keep_the_aspect_ratio_and_have_at_most_256_pixels_per_image() -> None:
    large = prediction_grid(make_prediction(1024, 512)).shape
    assert large[2] == 4 + 6 * (256 + 4)  # image, reconstruction, masks, three slots
    assert large[1] - prediction_grid(make_prediction(1024, 256)).shape[1] == 64
    assert prediction_grid(make_prediction(32, 32)).shape[2] == 4 + 6 * (128 + 4)


def test_overview_has_a_row_for_each_image() -> None:
    one, three = (overview([make_prediction()] * rows).shape for rows in (1, 3))
    assert (three[1] - one[1], three[2]) == (2 * (128 + 4), one[2])
