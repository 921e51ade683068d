from __future__ import annotations

import hashlib
import json
import runpy
import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.progress import Progress

from object_discovery.cli.command import main as command_main
from object_discovery.data.readers.hdf5_scenes import SceneFile
from object_discovery.download import SOURCES, command, download
from object_discovery.download import fetch as fetching
from object_discovery.download.command import write_trainaug
from object_discovery.errors import CorruptFileError, DatasetNotFoundError, UserError

from ..data.tfrecord_writer import example, random_scene, write
from .archives import make_tar, make_zip, tree
from .server import Server

SCRIPT = Path(__file__).parents[2] / "data_scripts" / "download.py"
CLEVR = {"CLEVR_v1.0/images/val/CLEVR_val_000000.png": b"png", "CLEVR_v1.0/scenes/CLEVR_val_scenes.json": b"{}"}
PARTS = [{f"clevrtex_full/{n}/CLEVRTEX_full_00000{n}.png": bytes([n])} for n in range(5)]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def serve_clevrtex(server: Server) -> None:
    for number, members in enumerate(PARTS, 1):
        server.files[f"clevrtex_full_part{number}.tar.gz"] = make_tar(members)


def test_tfrecords_can_be_converted_by_the_printed_command(server: Server, tmp_path: Path) -> None:
    source = write(tmp_path / "a", [example(random_scene("tetrominoes", seed)) for seed in range(3)])
    server.files["tetrominoes_train.tfrecords"] = source.read_bytes()
    root = tmp_path / "my data"
    lines = download("tetrominoes", root, url=server.base + "/")
    assert lines[0] == "tetrominoes_train.tfrecords: downloaded"
    assert names(root) == ["tetrominoes_train.tfrecords"]
    assert lines[1].startswith("convert: object-discovery convert records ")
    command, *arguments = shlex.split(lines[1].removeprefix("convert: "))
    assert command == "object-discovery"
    assert command_main(arguments) == 0
    assert len(SceneFile(root / "tetrominoes_train.h5")) == 3
    assert names(root) == ["tetrominoes_train.h5", "tetrominoes_train.tfrecords"]
    server.requests.clear()
    assert download("tetrominoes", root, url=server.base)[0] == "tetrominoes_train.tfrecords: already there"
    assert server.requests == []


def test_archives_are_unpacked_and_removed(server: Server, tmp_path: Path) -> None:
    server.files["CLEVR_v1.0.zip"] = make_zip(CLEVR)
    for expected in (f"CLEVR_v1.0.zip: unpacked into {tmp_path}", "CLEVR_v1.0.zip: already there"):
        assert download("clevr", tmp_path, url=server.base, verify=False) == [expected]
        assert names(tmp_path) == ["CLEVR_v1.0", "CLEVR_v1.0.zip.done"]
        assert tree(tmp_path / "CLEVR_v1.0") == {name.partition("/")[2]: value for name, value in CLEVR.items()}
    assert len(server.requests) == 1


def test_keep_leaves_the_archive(server: Server, tmp_path: Path) -> None:
    server.files["CLEVR_v1.0.zip"] = make_zip(CLEVR)
    for keep in (True, False):  # a kept archive is not removed later
        download("clevr", tmp_path, url=server.base, verify=False, keep=keep)
        assert names(tmp_path) == ["CLEVR_v1.0", "CLEVR_v1.0.zip", "CLEVR_v1.0.zip.done"]


def test_existing_archive_is_unpacked(server: Server, tmp_path: Path) -> None:
    (tmp_path / "CLEVR_v1.0.zip").write_bytes(make_zip(CLEVR))
    download("clevr", tmp_path, url=server.base)
    assert names(tmp_path) == ["CLEVR_v1.0", "CLEVR_v1.0.zip.done"]
    assert server.requests == []


def test_leftovers_of_a_killed_run_are_removed(server: Server, tmp_path: Path) -> None:
    (tmp_path / "tetrominoes_train.tfrecords").write_bytes(b"whole")
    (tmp_path / "tetrominoes_train.tfrecords.part.json").write_text("{}")
    download("tetrominoes", tmp_path, url=server.base)
    assert names(tmp_path) == ["tetrominoes_train.tfrecords"]
    assert server.requests == []
    (tmp_path / "tetrominoes_train.tfrecords").unlink()
    server.files["CLEVR_v1.0.zip"] = make_zip(CLEVR)
    download("clevr", tmp_path, url=server.base, verify=False)
    (tmp_path / "CLEVR_v1.0.zip").write_bytes(make_zip(CLEVR))
    download("clevr", tmp_path, url=server.base)
    assert names(tmp_path) == ["CLEVR_v1.0", "CLEVR_v1.0.zip.done"]


@pytest.mark.parametrize("note", [None, "", "[]", '{"unpacked": ["CLEVR_v1.0", "gone"]}'])
def test_invalid_done_file_is_ignored(server: Server, tmp_path: Path, note: str | None) -> None:
    server.files["CLEVR_v1.0.zip"] = make_zip(CLEVR)
    download("clevr", tmp_path, url=server.base, verify=False)
    path = tmp_path / "CLEVR_v1.0.zip.done"
    path.unlink() if note is None else path.write_text(note)
    (line,) = download("clevr", tmp_path, url=server.base, verify=False)
    assert "unpacked" in line
    assert json.loads(path.read_text()) == {"keep": False, "unpacked": ["CLEVR_v1.0"]}


def test_several_archives_are_unpacked_into_one_folder(server: Server, tmp_path: Path) -> None:
    serve_clevrtex(server)
    complete = server.files.pop("clevrtex_full_part4.tar.gz")
    with pytest.raises(
        DatasetNotFoundError, match=r"part4\.tar\.gz is not there .*; see https://www\.robots\.ox\.ac\.uk"
    ):
        download("clevrtex", tmp_path, url=server.base)
    notes = [f"clevrtex_full_part{number}.tar.gz.done" for number in range(1, 6)]
    assert names(tmp_path) == ["clevrtex_full", *notes[:3]]
    server.files["clevrtex_full_part4.tar.gz"] = complete
    server.requests.clear()
    download("clevrtex", tmp_path, url=server.base)
    assert [path for path, _ in server.requests] == ["/clevrtex_full_part4.tar.gz", "/clevrtex_full_part5.tar.gz"]
    assert names(tmp_path) == ["clevrtex_full", *notes]
    assert tree(tmp_path / "clevrtex_full") == {
        name.partition("/")[2]: content for members in PARTS for name, content in members.items()
    }


def test_sketchy_is_unpacked_into_records(server: Server, tmp_path: Path) -> None:
    for shard in range(2):
        server.files[f"lift_green__demos-0000{shard}-of-00002.tar.bz2"] = make_tar({f"episode{shard}": b"x"}, "bz2")
    download("sketchy", tmp_path, "lift_green__demos", url=server.base)
    assert names(tmp_path / "records") == ["episode0", "episode1"]


@pytest.fixture
def small_voc(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Serve VOC and SBD of three images each, and expect four images in trainaug."""
    segmentation = "VOCdevkit/VOC2012/ImageSets/Segmentation"
    voc = {f"{segmentation}/train.txt": b"a\nb\n", f"{segmentation}/val.txt": b"v\n"}
    sbd = {f"benchmark_RELEASE/dataset/{split}.txt": text for split, text in (("train", b"b\nd\nv\n"), ("val", b"c\n"))}
    server.files |= {"VOCtrainval_11-May-2012.tar": make_tar(voc, ""), "benchmark.tgz": make_tar(sbd)}
    monkeypatch.setattr(command, "_TRAINAUG", 4)


@pytest.mark.usefixtures("small_voc")
def test_trainaug_is_voc_and_sbd_without_the_validation_images(server: Server, tmp_path: Path) -> None:
    lines = download("voc", tmp_path, url=server.base, verify=False)
    path = tmp_path / "VOCdevkit" / "VOC2012" / "ImageSets" / "Segmentation" / "trainaug.txt"
    assert lines[-1] == f"{path}: 4 images"
    assert path.read_text().split() == ["a", "b", "c", "d"]
    assert names(path.parent) == ["train.txt", "trainaug.txt", "val.txt"]


@pytest.mark.usefixtures("small_voc")
def test_voc_without_sbd(server: Server, tmp_path: Path) -> None:
    (line,) = download("voc", tmp_path, "trainval", url=server.base, verify=False)
    assert line.startswith("VOCtrainval_11-May-2012.tar: unpacked")
    with pytest.raises(
        UserError, match=r"^Cannot list the images of trainaug: .*train\.txt: No such file or directory$"
    ):
        write_trainaug(tmp_path)


@pytest.mark.usefixtures("small_voc")
def test_a_trainaug_of_another_size_is_refused(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "_TRAINAUG", 10_582)
    with pytest.raises(
        UserError, match=r"^Expected 10582 images in trainaug of .*, but got 4; remove it and run again$"
    ):
        download("voc", tmp_path, url=server.base, verify=False)


def test_default_url_is_the_published_one(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[Any, ...]] = []

    def fake_fetch(*arguments: Any) -> None:
        calls.append(arguments[:4])
        arguments[1].write_bytes(b"x")

    monkeypatch.setattr(command, "fetch", fake_fetch)
    download("shapes3d", tmp_path)
    file = SOURCES["shapes3d"].files[0]
    url = "https://storage.googleapis.com/3d-shapes/3dshapes.h5"
    assert calls == [(url, tmp_path / "3dshapes.h5", 267_573_662, file.checksum)]


@pytest.mark.parametrize("verify", [True, False])
def test_checksums_are_verified(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verify: bool) -> None:
    published = replace(SOURCES["shapes3d"].files[0], size=5, checksum=f"sha256:{hashlib.sha256(b'right').hexdigest()}")
    monkeypatch.setitem(SOURCES, "shapes3d", replace(SOURCES["shapes3d"], files=(published,)))
    server.files["3dshapes.h5"] = b"wrong"
    if not verify:
        assert download("shapes3d", tmp_path, url=server.base, verify=False) == ["3dshapes.h5: downloaded"]
        return
    with pytest.raises(CorruptFileError, match="its sha256 is wrong"):
        download("shapes3d", tmp_path, url=server.base)
    assert names(tmp_path) == []


def serve_unsafe_archive(server: Server) -> None:
    server.files["CLEVR_v1.0.zip"] = make_zip({"../evil": b"x"})


def run(*arguments: str) -> int:
    """Run the script in this process; return its exit status."""
    status: int = runpy.run_path(str(SCRIPT))["main"](list(arguments))
    return status


@pytest.mark.parametrize(
    ("arguments", "message", "prepare"),
    [
        (["mnist", "ROOT"], "Expected argument `name` to be one of clevr, ", None),
        (["clevr", "ROOT", "--variant", "x"], "Expected no argument `variant` for clevr, but got 'x'", None),
        (["ravens", "ROOT"], "ravens must be downloaded by hand: its files are on Google Drive", None),
        (["clevr", "ROOT", "--url", "ftp://x"], "Expected argument `url` to begin with http:// or https://, but", None),
        (["clevr", "/dev/null/x"], "Cannot make the folder /dev/null/x: Not a directory", None),
        (["tetrominoes", "ROOT"], "http://127.0.0.1:", None),
        (["clevr", "ROOT", "--no-verify"], "refused, as its member '../evil' leads out", serve_unsafe_archive),
        (["clevr", "ROOT"], "expected 19021600724 bytes, but the server has", serve_unsafe_archive),
    ],
)
def test_failures_are_reported_in_one_line(
    server: Server,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
    prepare: Callable[[Server], None] | None,
) -> None:
    if prepare:
        prepare(server)
    argv = [str(tmp_path / "root") if argument == "ROOT" else argument for argument in arguments]
    assert run(*argv, *([] if "--url" in argv else ["--url", server.base])) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert message in err
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] in ([], ["CLEVR_v1.0.zip"])


@pytest.mark.parametrize("arguments", [[], ["clevr"], ["clevr", "a", "b"], ["clevr", "a", "--nonsense"]])
def test_wrong_arguments_are_reported_in_one_line(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*arguments) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert err.count("\n") == 1


def test_the_script_lists_and_downloads(server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--list") == 0
    assert "CLEVR_v1.0.zip" in capsys.readouterr().out
    server.files["tetrominoes_train.tfrecords"] = b"x" * 1000
    assert run("tetrominoes", str(tmp_path), "--url", server.base) == 0
    assert capsys.readouterr().out.startswith("tetrominoes_train.tfrecords: downloaded\nconvert: object-discovery ")


def test_interrupted_download_can_be_continued(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    server.files["tetrominoes_train.tfrecords"] = bytes(300_000)
    written: list[bytes] = []
    write_block = fetching._write

    def interrupt(file: Any, block: bytes) -> None:
        write_block(file, block)
        written.append(block)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(fetching, "_write", interrupt)
        assert run("tetrominoes", str(tmp_path), "--url", server.base) == 130
    assert capsys.readouterr().err == "interrupted; run the same command again to continue\n"
    assert names(tmp_path) == [f"tetrominoes_train.tfrecords.part{end}" for end in ("", ".json")]
    assert run("tetrominoes", str(tmp_path), "--url", server.base) == 0
    assert [byte_range for _, byte_range in server.requests] == [None, f"bytes={len(written[0])}-"]


def test_unwritable_done_file_is_refused(server: Server, tmp_path: Path) -> None:
    server.files["CLEVR_v1.0.zip"] = make_zip(CLEVR)
    (tmp_path / "CLEVR_v1.0.zip.done").mkdir()
    with pytest.raises(UserError, match=r"^Cannot write .*CLEVR_v1\.0\.zip\.done: Is a directory; run again to go on$"):
        download("clevr", tmp_path, url=server.base, verify=False)


def test_progress_bar_shows_every_stage(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tasks: list[tuple[str, float | None]] = []

    class RecordingProgress(Progress):
        def add_task(self, description: str, *arguments: Any, **options: Any) -> Any:
            tasks.append((description, options["total"]))
            return super().add_task(description, *arguments, **options)

    monkeypatch.setattr(command, "progress_bar", lambda *columns, enabled: RecordingProgress(*columns, disable=True))
    content = make_zip(CLEVR)
    server.files["CLEVR_v1.0.zip"] = content
    server.headers = {"x-goog-hash": ""}
    download("clevr", tmp_path, url=server.base, verify=False)
    assert tasks == [("fetching CLEVR_v1.0.zip", len(content)), ("unpacking CLEVR_v1.0.zip", 5)]
