"""CLEVR with masks: the renderings of CLEVR by DeepMind, with a mask for each object, read from a file."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from object_discovery.data.datamodule import SceneDataModule
from object_discovery.data.object_encoding import encode_objects
from object_discovery.data.readers.hdf5_scenes import SceneFile
from object_discovery.data.splits import PublishedSplit, Split
from object_discovery.errors import CorruptFileError
from object_discovery.recommended import RECOMMENDED

_ATTRIBUTES = ("size", "material", "shape", "color")  # of each entity, counted from 1 as in `ATTRIBUTES`; 0: none
_COORDINATES = ("x", "y", "z")


class CLEVRWithMasksFile(SceneFile):
    """Scenes of CLEVR with masks in an HDF5 file, with their `objects` where the file describes them.

    Args:
        path: The file.

    Raises:
        DatasetNotFoundError: On first use, if there is no such file, or it may not be read.
        CorruptFileError: On first use, if the file is damaged or of another kind.

    Example:
        >>> CLEVRWithMasksFile("clevr.h5").targets(0)
        Traceback (most recent call last):
        object_discovery.errors.DatasetNotFoundError: No such file: clevr.h5
    """

    _described: tuple[NDArray[np.float32], NDArray[np.int64]] | None = None

    def targets(self, index: int) -> dict[str, NDArray[Any]]:
        """Return the `objects` of a scene, `(10, 19)`, see `encode_objects`; nothing if the file does not say.

        Raises:
            CorruptFileError: If there are no such objects.
        """
        if not self._contents.factors.keys() >= {*_ATTRIBUTES, *_COORDINATES}:
            return {}
        if self._described is None:  # all at once: a hundredth of the time of scene by scene
            self._described = self._column(_COORDINATES, np.float32), self._column(_ATTRIBUTES, np.int64)
        coords, codes = (column[index] for column in self._described)
        real = codes.any(1)
        try:
            return {"objects": encode_objects(coords[real], codes[real] - 1)}
        except ValueError as error:
            raise CorruptFileError(f"{self.path}: cannot describe the objects of scene {index} ({error})") from None

    def _column(self, names: tuple[str, ...], dtype: type[Any]) -> NDArray[Any]:
        """Read factors of all scenes and entities, `(N, E, len(names))`."""
        read = [self._read(self._contents.factors[name], slice(None)) for name in names]
        if len({(array.size, len(array)) for array in read}) > 1:
            raise CorruptFileError(f"{self.path}: expected {', '.join(names)} of each entity, but their shapes differ")
        return np.stack([array.reshape(len(array), -1).astype(dtype) for array in read], axis=-1)


class CLEVRWithMasksDataModule(SceneDataModule):
    """CLEVR with masks, of which CLEVR6 is `max_objects=6` (see `SceneDataModule` for files, splits and filters).

    Images of the published 240 x 320 pixels are cropped to rows 29 to 220 and columns 64 to 255 (`fit` None or crop) or
    taken whole (`fit` squash), then resized to `resolution`: images bilinearly without antialiasing, masks by the same
    crop to the nearest pixel. Images of any other size, such as those of a file that holds the crop already, are
    resized whole. Objects are counted after the
    crop, which can remove some. The scenes cannot be generated: give `data_root`.

    A file in the published order is split as in the experiments: the first 70,000 scenes to train, the next 320 to
    test, the rest to validate. The recommended `max_objects` is 6 (CLEVR6), which holds for validation and test too
    unless `eval_max_objects` says otherwise (0: all scenes, up to 10 objects).

    Where the file describes them, as converted ones do, scenes have `objects` `(10, 19)` float32 for set prediction,
    see `encode_objects`: those of the whole frame, whatever the crop.

    Reference:
        Kabra et al., Multi-Object Datasets, 2019, github.com/deepmind/multi_object_datasets; Locatello et al.,
        Object-Centric Learning with Slot Attention, arXiv:2006.15055.
    """

    name = "clevr_with_masks"
    recommended = RECOMMENDED["clevr_with_masks"]
    published: ClassVar[PublishedSplit] = PublishedSplit(train=70_000, test=320)
    how_to_get = (
        "convert the published TFRecord file once by `object-discovery convert records SOURCE.tfrecords OUT.h5`"
    )

    def _find_splits(self, root: str) -> dict[str, Split]:
        splits = super()._find_splits(root)
        paths = {split: entry.source.path for split, entry in splits.items() if isinstance(entry.source, SceneFile)}
        files = {path: CLEVRWithMasksFile(path) for path in paths.values()}  # splits of one file share it
        return {split: entry._replace(source=files[paths[split]]) for split, entry in splits.items()}
