"""What the published datasets consist of and where it is.

Checksums stand here only where someone publishes them: TensorFlow Datasets (SHA-256, with the exact sizes) and
torchvision (MD5). Google Cloud Storage states one with every file, which is verified when it comes.
"""

from __future__ import annotations

from dataclasses import dataclass

from object_discovery.errors import DatasetNotFoundError, UserError

_MULTI_OBJECT = "https://storage.googleapis.com/multi-object-datasets"
_CLEVRTEX = "https://thor.robots.ox.ac.uk/datasets/clevrtex"
_SKETCHY = "https://storage.googleapis.com/sketchy-data"
_COCO = "http://images.cocodataset.org"
_DRIVE = "https://drive.google.com/uc?export=download&id="
ALL = "all"
"""Name of the choice that takes every piece."""


@dataclass(frozen=True)
class RemoteFile:
    """A file of a dataset, as its host has it."""

    url: str
    piece: str | None = None
    """The variant or split it belongs to. None: it belongs to all."""
    size: int | None = None
    """Size in bytes; exact where there is a checksum. None: unknown."""
    checksum: str | None = None
    """Published checksum, as `md5:...` or `sha256:...`."""

    @property
    def name(self) -> str:
        """Name of the file on disk."""
        return self.url.rsplit("/", 1)[1]

    @property
    def is_archive(self) -> bool:
        """Whether the file is to be unpacked."""
        return self.name.endswith((".zip", ".tar", ".tgz", ".tar.gz", ".tar.bz2"))


@dataclass(frozen=True)
class Source:
    """A published dataset and its files."""

    name: str
    page: str
    """Web page of the dataset."""
    files: tuple[RemoteFile, ...] = ()
    option: str | None = None
    """What chooses among the pieces: `variant` or `split`. None: nothing to choose."""
    pieces: tuple[str, ...] = ()
    """The choices besides `all`."""
    default: str = ALL
    """The choice if none is made."""
    folder: str = ""
    """Folder under the root in which archives are unpacked."""
    by_hand: str = ""
    """How to get the dataset where no program can."""

    def select(self, variant: str | None = None, split: str | None = None) -> list[RemoteFile]:
        """List the files of a variant or split.

        Args:
            variant: One of the variants, or `all`. None: the default.
            split: One of the splits, or `all`. None: the default.

        Returns:
            The files, in the order in which they are fetched.

        Raises:
            UserError: If the dataset has no such choice.

        Example:
            >>> [file.name for file in SOURCES["coco"].select(split="val")]
            ['annotations_trainval2017.zip', 'val2017.zip']
        """
        given = {"variant": variant, "split": split}
        for option, value in given.items():
            if value is not None and option != self.option:
                raise UserError(f"Expected no argument `{option}` for {self.name}, but got {value!r}")
        chosen = given.get(self.option or "") or self.default
        if chosen not in (ALL, *self.pieces):
            known = ", ".join((*self.pieces, ALL))
            raise UserError(f"Expected argument `{self.option}` to be one of {known}, but got {chosen!r}")
        return [file for file in self.files if chosen == ALL or file.piece in (None, chosen)]


def _published(url: str, piece: str | None, size: int, sha256: str) -> RemoteFile:
    return RemoteFile(url, piece, size, f"sha256:{sha256}")


def _multi_object(dataset: str, files: dict[str, float], option: str | None = None, default: str = ALL) -> Source:
    """Describe one of DeepMind's multi_object_datasets by its files and their approximate sizes in MB."""
    remote = [
        RemoteFile(f"{_MULTI_OBJECT}/{dataset}/{dataset}_{piece}.tfrecords", piece, round(size * 1e6))
        for piece, size in files.items()
    ]
    page = "https://github.com/google-deepmind/multi_object_datasets"
    return Source(dataset, page, tuple(remote), option, tuple(files) if option else (), default)


_ROOM = {"train": 7000.0, "test_empty_room": 7.0, "test_six_objects": 7.0, "test_identical_color": 7.0}
_SPRITES = {"colored_on_grayscale": 750.0, "colored_on_colored": 750.0, "binarized": 750.0}
_TEXTURES = ("full", "outd", "camo", "pbg", "vbg", "grassbg")
_DEMONSTRATIONS = ("lift_green__demos", "stack_green_on_red__demos")

_KNOWN = (
    Source(
        "clevr",
        "https://cs.stanford.edu/people/jcjohns/clevr",
        (
            _published(
                "https://dl.fbaipublicfiles.com/clevr/CLEVR_v1.0.zip",
                None,
                19_021_600_724,
                "5cd61cf1096ed20944df93c9adb31e74d189b8459a94f54ba00090e5c59936d1",
            ),
        ),
    ),
    _multi_object("clevr_with_masks", {"train": 10_500.0}),
    _multi_object("tetrominoes", {"train": 300.0}),
    _multi_object("multi_dsprites", _SPRITES, "variant", "colored_on_grayscale"),
    _multi_object("objects_room", _ROOM, "split"),
    Source(
        "shapes3d",
        "https://github.com/google-deepmind/3d-shapes",
        (
            _published(
                "https://storage.googleapis.com/3d-shapes/3dshapes.h5",
                None,
                267_573_662,
                "0a0f6ed98baff276a50f3a081a7434d788da63cb135a98189b2a5b5769be1785",
            ),
        ),
    ),
    Source(
        "ravens",
        "https://github.com/HHousen/object-discovery-pytorch",
        by_hand="its files are on Google Drive, which wants a browser; get "
        f"{_DRIVE}1JxNgM2ubU4zJU_GjnoIOtqFKd-Mg_kzh (ravens_*_train.h5) "
        f"and {_DRIVE}1Zq77Ox5GiW3LZlBdVGgfrDuegcyZtzdW (ravens_*_test.h5)",
    ),
    Source(
        "sketchy",
        "https://github.com/google-deepmind/deepmind-research/tree/master/sketchy",
        tuple(
            RemoteFile(f"{_SKETCHY}/{task}-{shard:05}-of-00002.tar.bz2", task)
            for task in _DEMONSTRATIONS
            for shard in range(2)
        ),
        "variant",
        _DEMONSTRATIONS,
        folder="records",
    ),
    Source(
        "clevrtex",
        "https://www.robots.ox.ac.uk/~vgg/data/clevrtex",
        (
            *(RemoteFile(f"{_CLEVRTEX}/clevrtex_full_part{n}.tar.gz", "full", 4_700_000_000) for n in range(1, 6)),
            RemoteFile(f"{_CLEVRTEX}/clevrtex_outd.tar.gz", "outd", 5_300_000_000),
            # all but the first three variants: names after the pattern of these
            *(RemoteFile(f"{_CLEVRTEX}/clevrtex_{variant}.tar.gz", variant) for variant in _TEXTURES[2:]),
        ),
        "variant",
        _TEXTURES,
        "full",
    ),
    Source(
        "coco",
        "https://cocodataset.org",
        (
            _published(
                f"{_COCO}/annotations/annotations_trainval2017.zip",
                None,
                252_907_541,
                "113a836d90195ee1f884e704da6304dfaaecff1f023f49b6ca93c4aaae470268",
            ),
            _published(
                f"{_COCO}/zips/val2017.zip",
                "val",
                815_585_330,
                "4f7e2ccb2866ec5041993c9cf2a952bbed69647b115d0f74da7ce8f4bef82f05",
            ),
            _published(
                f"{_COCO}/zips/train2017.zip",
                "train",
                19_336_861_798,
                "69a8bb58ea5f8f99d24875f21416de2e9ded3178e903f1f7603e283b9e06d929",
            ),
        ),
        "split",
        ("train", "val"),
    ),
    Source(
        "voc",
        "http://host.robots.ox.ac.uk/pascal/VOC/voc2012",
        (
            RemoteFile(
                "https://thor.robots.ox.ac.uk/pascal/VOC/voc2012/VOCtrainval_11-May-2012.tar",
                None,
                1_999_639_040,
                "md5:6cd6e144f989b92b3379bac3b3de84fd",
            ),
            RemoteFile(
                "https://www2.eecs.berkeley.edu/Research/Projects/CS/vision/grouping/semantic_contours/benchmark.tgz",
                "trainaug",
                None,
                "md5:82b4d87ceb2ed10f6038a1cba92111cb",
            ),
        ),
        "variant",
        ("trainaug", "trainval"),
        "trainaug",
    ),
)

SOURCES: dict[str, Source] = {source.name: source for source in _KNOWN}
"""Every dataset that can be downloaded, by name."""


def find_source(name: str) -> Source:
    """Find a dataset by name.

    Args:
        name: Name of the dataset.

    Raises:
        DatasetNotFoundError: If there is none of this name.

    Example:
        >>> find_source("shapes3d").files[0].name
        '3dshapes.h5'
    """
    if name not in SOURCES:
        raise DatasetNotFoundError(f"Expected argument `name` to be one of {', '.join(SOURCES)}, but got {name!r}")
    return SOURCES[name]


def describe(name: str | None = None) -> str:
    """List datasets with their choices, files, sizes and hosts, one file a line.

    Args:
        name: Name of a dataset. None: all.

    Example:
        >>> print(describe().splitlines()[0])
        clevr
        >>> print(describe().splitlines()[1])
          CLEVR_v1.0.zip                                   19.0 GB  dl.fbaipublicfiles.com
    """
    lines: list[str] = []
    for source in SOURCES.values() if name is None else [SOURCES[name]]:
        choices = "|".join((*source.pieces, ALL))
        lines.append(
            source.name + (f"  --{source.option} {choices} (default {source.default})" if source.option else "")
        )
        lines += [f"  {file.name:<46} {_size(file):>9}  {file.url.split('/')[2]}" for file in source.files]
        if source.by_hand:
            lines.append(f"  by hand: {source.by_hand}")
    return "\n".join(lines)


def _size(file: RemoteFile) -> str:
    about = "" if file.checksum else "~"
    if file.size is None:
        return "?"
    return f"{about}{file.size / 1e9:.1f} GB" if file.size >= 1e9 else f"{about}{file.size / 1e6:.0f} MB"
