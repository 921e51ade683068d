import io
import multiprocessing
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from object_discovery.data.conversion import sketchy
from object_discovery.data.conversion.sketchy import CAMERAS, convert_sketchy, split_episodes
from object_discovery.data.datasets.sketchy import VIEWS, SketchyDataModule
from object_discovery.errors import CorruptFileError, DatasetNotFoundError, UserError
from tests.data.tfrecord_writer import Features, example, write

SCRIPTS = Path(__file__).parents[3] / "data_scripts"
STATE: Features = {"actions": np.zeros(7, np.float32), "gripper/grasp": np.ones(1, np.int64)}


def random_frame(seed: int, size: tuple[int, int] = (600, 960)) -> NDArray[np.uint8]:
    small = np.random.default_rng(seed).integers(0, 256, (5, 8, 3), np.uint8)
    return np.array(Image.fromarray(small).resize(size[::-1], Image.Resampling.BICUBIC))


def encode(frame: NDArray[np.uint8], kind: str = "JPEG") -> NDArray[np.uint8]:
    file = io.BytesIO()
    Image.fromarray(frame).save(file, kind, quality=90)
    return np.frombuffer(file.getvalue(), np.uint8)


def step(episode: int, number: int) -> Features:
    frames = {camera: encode(random_frame(100 * episode + 10 * number + k)) for k, camera in enumerate(CAMERAS)}
    return STATE | frames | {"pixels/usbcam0": np.zeros(9, np.uint8)}


def name(episode: int) -> str:
    return f"{10000313341320364033 + episode}_b615a417-ce34-41a8-8411-2a1ce3f3bd{episode:02}"


def write_episodes(root: Path, number: int = 1, steps: int = 1) -> Path:
    """Write episodes in the published format: uncompressed, each value one string, without extension."""
    root.mkdir(exist_ok=True)
    for episode in range(number):
        write(root / name(episode), [example(step(episode, t), packed=True) for t in range(steps)], "plain")
    return root


def list_folders(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_dir())


def test_images_equal_the_published_crops(tmp_path: Path) -> None:
    records, target = write_episodes(tmp_path / "records", steps=2), tmp_path / "processed"
    convert_sketchy(records, target)
    folder = target / "train" / "ep000000"
    assert {path.name for path in folder.iterdir()} == {
        f"ep000000_t{t:03}_{view}.png" for t in (0, 1) for view in VIEWS
    }
    for number in range(2):
        for camera, feature, rows in (("fl", CAMERAS[0], slice(71, -81)), ("fr", CAMERAS[1], slice(91, -61))):
            frame = np.asarray(Image.open(io.BytesIO(step(0, number)[feature].tobytes())))[rows, 144:-144]
            for view, crop in (("full", frame[:, 112:-112]), ("c0", frame[:352, :352]), ("c5", frame[-352:, -352:])):
                expected = Image.fromarray(crop).resize((128, 128), Image.Resampling.BILINEAR)
                written = Image.open(folder / f"ep000000_t{number:03}_{camera}_{view}.png")
                np.testing.assert_array_equal(np.asarray(written), np.asarray(expected))


def test_episodes_are_split_by_name(tmp_path: Path) -> None:
    shuffled = [tmp_path / str(n % 3) / name(n) for n in np.random.default_rng(0).permutation(25).tolist()]
    folders = {
        episode.path.name: str(episode.folder.relative_to(tmp_path)) for episode in split_episodes(shuffled, tmp_path)
    }
    for n in range(25):
        folder = f"valid/ep{21 + n:06}" if n < 2 else f"test/ep{21 + n:06}" if n < 4 else f"train/ep{n - 4:06}"
        assert folders[name(n)] == folder


def test_episodes_in_subfolders_are_converted_and_read_by_the_data_module(tmp_path: Path) -> None:
    records = write_episodes(tmp_path / "records", 10)
    (records / "more").mkdir()
    (records / name(3)).rename(records / "more" / name(3))
    for other in ("metadata.sqlite", "lift_green__demos-00000-of-00002.tar.bz2", ".hidden"):
        (records / other).write_text("not an episode")
    assert len(convert_sketchy(tmp_path, tmp_path / "processed", workers=3)) == 10
    data = SketchyDataModule(data_root=str(tmp_path), val_size=None)
    assert [len(data.train_set), len(data.val_set), len(data.test_set)] == [14 * 8, 14, 14]


def _convert(records: Path, target: Path) -> None:
    convert_sketchy(records, target, workers=1)


def test_a_killed_conversion_is_continued(tmp_path: Path) -> None:
    records, target = write_episodes(tmp_path / "records", 3, steps=2), tmp_path / "processed"
    convert_sketchy(records, tmp_path / "reference", workers=0)
    child = multiprocessing.get_context("fork").Process(target=_convert, args=(records, target))
    child.start()
    while child.is_alive() and not (target / "train" / ".ep000001.new").exists():
        time.sleep(0.001)
    assert child.pid is not None
    os.kill(child.pid, signal.SIGKILL)
    child.join()
    finished = sorted(target.glob("train/ep*"))
    assert finished
    assert all(len(list(folder.iterdir())) == 28 for folder in finished)
    before = finished[0].stat().st_mtime_ns
    convert_sketchy(records, target)
    assert finished[0].stat().st_mtime_ns == before
    assert list_folders(target) == list_folders(tmp_path / "reference")
    for path in (tmp_path / "reference").rglob("*.*"):
        assert (target / path.relative_to(tmp_path / "reference")).read_bytes() == path.read_bytes()


def test_damaged_records_are_refused_and_leave_no_images(tmp_path: Path) -> None:
    records, target = write_episodes(tmp_path / "records", 2), tmp_path / "processed"
    path, valid = records / name(1), step(1, 0)
    content = path.read_bytes()
    jpeg = valid[CAMERAS[1]]
    damaged: list[tuple[bytes | Features, str]] = [
        (content[:-5], "the file ends inside a record"),
        (content[:9000] + bytes([content[9000] ^ 1]) + content[9001:], "checksum"),
        (b"", "it holds no time step"),
        (STATE, f"it has no `{CAMERAS[0]}`"),
        (valid | {CAMERAS[1]: jpeg[: len(jpeg) // 2]}, f"`{CAMERAS[1]}` cannot be decoded"),
        (valid | {CAMERAS[1]: np.zeros(50, np.uint8)}, r"cannot be decoded \(no JPEG\)"),
        (valid | {CAMERAS[1]: encode(random_frame(0, (480, 640)))}, "is RGB of 480 x 640, not RGB of 600 x 960"),
        (valid | {CAMERAS[1]: encode(random_frame(0)[..., 0])}, "is L of 600 x 960, not RGB"),
    ]
    for record, reason in damaged:
        path.write_bytes(record) if isinstance(record, bytes) else write(path, [example(record, True)], "plain")
        with pytest.raises(CorruptFileError, match=f"{name(1)}: .*{reason}") as error:
            convert_sketchy(records, target, workers=1)
        assert "\n" not in str(error.value)
        assert list_folders(target) == ["train", "train/ep000000"]
    path.write_bytes(content)
    convert_sketchy(records, target)
    assert list_folders(target) == ["train", "train/ep000000", "train/ep000001"]


def test_targets_with_other_episodes_and_duplicate_episodes_are_refused(tmp_path: Path) -> None:
    records, target = write_episodes(tmp_path / "records"), tmp_path / "processed"
    (target / "train" / "ep000000").mkdir(parents=True)
    with pytest.raises(UserError, match="holds images of unknown episodes"):
        convert_sketchy(records, target)
    (target / "train" / "ep000000").rmdir()
    convert_sketchy(records, target)
    write_episodes(records, 2)
    with pytest.raises(UserError, match="holds images of other episodes than these"):
        convert_sketchy(records, target)
    (records / "more").mkdir()
    (records / "more" / name(0)).touch()
    with pytest.raises(UserError, match="are the same episode: remove one of them"):
        convert_sketchy(records, target)


def test_missing_records_and_negative_workers_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetNotFoundError, match="none is not a folder"):
        convert_sketchy(tmp_path / "none", tmp_path / "out")
    with pytest.raises(DatasetNotFoundError, match=r"found none: `object-discovery download sketchy"):
        convert_sketchy(tmp_path, tmp_path / "out")
    (tmp_path / "lift.tar.bz2").touch()
    with pytest.raises(DatasetNotFoundError, match=r"found none: unpack lift\.tar\.bz2 first"):
        convert_sketchy(tmp_path, tmp_path / "out")
    with pytest.raises(ValueError, match="Expected argument `workers` to be at least 0, but got -1"):
        convert_sketchy(tmp_path, tmp_path / "out", workers=-1)


def test_an_unwritable_target_is_refused(tmp_path: Path) -> None:
    records = write_episodes(tmp_path / "records")
    (tmp_path / "out").write_text("a file")
    with pytest.raises(UserError, match=r"Cannot write .*out"):
        convert_sketchy(records, tmp_path / "out")


def test_the_command_converts_and_reports_errors_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    from convert_sketchy import main

    records, target = write_episodes(tmp_path / "records"), tmp_path / "out"
    assert main([str(records), str(target), "--no-progress"]) == 0
    assert capsys.readouterr() == (f"{target}: 1 episodes\n", "")
    (records / name(0)).rename(records / name(1))
    assert main([str(records), str(target)]) == 2
    out, err = capsys.readouterr()
    assert (out, err[:7], err.count("\n")) == ("", "error: ", 1)

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(sketchy, "_decode", interrupt)
    assert main([str(records), str(tmp_path / "other")]) == 130
    assert capsys.readouterr().err == "interrupted; run the same command again to continue\n"
    assert list_folders(tmp_path / "other") == ["train"]
    assert main([]) == 2
    assert capsys.readouterr().err == "error: the following arguments are required: source, target\n"
