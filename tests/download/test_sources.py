from __future__ import annotations

import re

import pytest

from object_discovery.data.readers.multi_object_datasets import DATASET_SCHEMAS
from object_discovery.download.sources import SOURCES, Source, describe, find_source
from object_discovery.errors import DatasetNotFoundError, UserError

ALL_FILES = [file for source in SOURCES.values() for file in source.files]


def names(source: Source, **choice: str) -> list[str]:
    return [file.name for file in source.select(**choice)]


def test_addresses_and_checksums_are_well_formed() -> None:
    lengths = {"md5": 32, "sha256": 64}
    for file in ALL_FILES:
        assert re.fullmatch(r"https?://[\w.-]+/[\w./-]+", file.url)
        if file.checksum:
            kind, value = file.checksum.split(":")
            assert re.fullmatch(rf"[0-9a-f]{{{lengths[kind]}}}", value)
    assert len({file.name for file in ALL_FILES}) == len(ALL_FILES)


def test_every_option_has_files() -> None:
    for source in SOURCES.values():
        assert (source.option is None) == (source.pieces == ())
        assert source.default in ("all", *source.pieces)
        assert {file.piece for file in source.files} - {None} <= {*source.pieces, "train"}
        for piece in source.pieces:
            assert names(source, **{str(source.option): piece})
        assert bool(source.files) != bool(source.by_hand)


@pytest.mark.parametrize("name", ["tetrominoes", "multi_dsprites", "objects_room", "clevr_with_masks"])
def test_multi_object_datasets_agree_with_the_converter(name: str) -> None:
    source = SOURCES[name]
    assert all(file.name == f"{name}_{file.piece}.tfrecords" for file in source.files)
    assert all(f"/multi-object-datasets/{name}/" in file.url for file in source.files)
    variants = {known.variant for known in DATASET_SCHEMAS if known.name == name} - {None}
    assert variants == (set(source.pieces) if source.option == "variant" else set())


def test_selected_files() -> None:
    assert names(SOURCES["clevrtex"]) == [f"clevrtex_full_part{number}.tar.gz" for number in range(1, 6)]
    assert names(SOURCES["clevrtex"], variant="camo") == ["clevrtex_camo.tar.gz"]
    assert len(names(SOURCES["clevrtex"], variant="all")) == 10
    assert names(SOURCES["multi_dsprites"]) == ["multi_dsprites_colored_on_grayscale.tfrecords"]
    assert len(names(SOURCES["objects_room"])) == 4
    assert names(SOURCES["objects_room"], split="test_empty_room") == ["objects_room_test_empty_room.tfrecords"]
    assert names(SOURCES["coco"], split="train") == ["annotations_trainval2017.zip", "train2017.zip"]
    assert names(SOURCES["voc"]) == ["VOCtrainval_11-May-2012.tar", "benchmark.tgz"]
    assert names(SOURCES["voc"], variant="trainval") == ["VOCtrainval_11-May-2012.tar"]
    assert names(SOURCES["sketchy"], variant="lift_green__demos") == [
        "lift_green__demos-00000-of-00002.tar.bz2",
        "lift_green__demos-00001-of-00002.tar.bz2",
    ]


@pytest.mark.parametrize(
    ("name", "choice", "message"),
    [
        ("clevr", {"variant": "full"}, "Expected no argument `variant` for clevr, but got 'full'"),
        ("coco", {"variant": "train"}, "Expected no argument `variant` for coco"),
        ("coco", {"split": "test"}, "Expected argument `split` to be one of train, val, all, but got 'test'"),
        ("clevrtex", {"split": "train"}, "Expected no argument `split` for clevrtex"),
    ],
)
def test_unknown_options_are_refused(name: str, choice: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        SOURCES[name].select(**choice)


def test_unknown_datasets_are_refused() -> None:
    with pytest.raises(DatasetNotFoundError, match=r"`name` to be one of clevr, .*voc, but got 'mnist'"):
        find_source("mnist")


def test_list_has_all_datasets_and_files() -> None:
    text = describe()
    for source in SOURCES.values():
        assert re.search(rf"^{source.name}\b", text, re.MULTILINE)
    for file in ALL_FILES:
        assert re.search(rf"^  {re.escape(file.name)} +\S.* {re.escape(file.url.split('/')[2])}$", text, re.MULTILINE)
    assert "by hand: " in text
