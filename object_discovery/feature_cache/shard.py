"""One file of a feature cache: the features of successive scenes in one piece, so that any of them is one read.

Format, version 1, which any HDF5 library reads: attributes `format` (`object_discovery_features`), `version`, `key` (a
digest), `first` (number of the first scene) and `view` (0 as it is, 1 mirrored); `features` float16 `(n, N, F)`, not
chunked; `crc32` uint32 `(n,)` of the bytes of each scene; `thumbnails` uint8 `(n, 3, 8, 8)` of the images.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
from isal import isal_zlib
from numpy.typing import NDArray

from object_discovery.data.readers.hdf5_errors import hdf5_errors, open_hdf5
from object_discovery.errors import CorruptFileError
from object_discovery.files import atomic_write

FORMAT = "object_discovery_features"
VERSION = 1


def write_shard(
    path: Path, features: NDArray[np.float16], thumbnails: NDArray[np.uint8], key: str, first: int, view: int
) -> None:
    """Write a shard, whole or not at all; the same values give the same bytes.

    Args:
        path: The file.
        features: `(n, N, F)`.
        thumbnails: `(n, 3, 8, 8)`.
        key: Digest of what the features depend on.
        first: Number of the first scene.
        view: Which view of the scenes.
    """
    checks = np.array([isal_zlib.crc32(row.tobytes()) for row in features], np.uint32)
    with atomic_write(path) as temporary, h5py.File(temporary, "w", libver=("v110", "v110")) as file:
        file.attrs.update({"format": FORMAT, "version": VERSION, "key": key, "first": first, "view": view})
        for name, values in (("features", features), ("crc32", checks), ("thumbnails", thumbnails)):
            file.create_dataset(name, data=values, track_times=False)


@dataclass(frozen=True)
class Shard:
    """Where the features of successive scenes lie in a file.

    Attributes:
        path: The file.
        offset: Where the features begin, in bytes.
        shape: `(n, N, F)`.
        checks: CRC-32 of each scene's features, `(n,)`.
        thumbnails: Small images, `(n, 3, 8, 8)`.
    """

    path: Path
    offset: int
    shape: tuple[int, int, int]
    checks: NDArray[np.uint32]
    thumbnails: NDArray[np.uint8]

    @classmethod
    def open(cls, path: Path, key: str, first: int, view: int) -> Shard:
        """Read all of a shard but its features.

        Raises:
            DatasetNotFoundError: If there is no such file.
            CorruptFileError: If it is damaged, or another one than its name says.
        """
        wanted = {"format": FORMAT, "version": VERSION, "key": key, "first": first, "view": view}
        with open_hdf5(path, "features") as file, hdf5_errors(path, "expected a shard of features, but it is damaged"):
            actual = {name: file.attrs.get(name) for name in wanted}
            if actual != wanted:
                name = next(name for name in wanted if actual[name] != wanted[name])
                raise CorruptFileError(
                    f"{path}: expected {name} {wanted[name]}, but got {actual[name]}: delete the file"
                )
            data, checks, thumbnails = file["features"], file["crc32"][:], file["thumbnails"][:]
            offset, shape = data.id.get_offset(), data.shape
            bad = offset is None or len(shape) != 3 or data.dtype != np.float16 or len(checks) != shape[0]
            if bad or path.stat().st_size < offset + data.nbytes:
                raise CorruptFileError(
                    f"{path}: expected a whole shard of features, but it is damaged: delete the file"
                )
        return cls(path, offset, shape, checks, thumbnails)

    def read_into(self, row: int, values: NDArray[np.float16]) -> None:
        """Read the features of one scene.

        Args:
            row: Which scene of the shard.
            values: Where they go, `(N, F)`, contiguous.

        Raises:
            CorruptFileError: If they are damaged.
        """
        with open(self.path, "rb", buffering=0) as file:
            file.seek(self.offset + row * values.nbytes)
            size = file.readinto(values.reshape(-1).view(np.uint8).data)
        if size != values.nbytes or isal_zlib.crc32(values.reshape(-1).view(np.uint8)) != self.checks[row]:
            raise CorruptFileError(
                f"{self.path}: the features of scene {row} are damaged: delete the file, cache again"
            )
