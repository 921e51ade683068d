"""CLEVR with masks: the renderings of CLEVR by DeepMind, with a mask for each object, read from a file."""

from __future__ import annotations

from typing import Any, ClassVar

from object_discovery.data.base import SceneDataModule
from object_discovery.data.splits import PublishedSplit


class CLEVRWithMasksDataModule(SceneDataModule):
    """CLEVR with masks, of which CLEVR6 is `max_objects=6` (see `SceneDataModule` for files, splits and filters).

    Images of the published 240 x 320 pixels are cropped to rows 29 to 220 and columns 64 to 255, then resized to
    `resolution`: images bilinearly without antialiasing, masks by the same crop to the nearest pixel. Images of any
    other size, such as those of a file that holds the crop already, are resized whole. Objects are counted after the
    crop, which can remove some. The scenes cannot be drawn: give `data_root`.

    A file in the published order is split as in the experiments: the first 70,000 scenes to train, the next 320 to
    test, the rest to validate. The recommended `max_objects` is 6 (CLEVR6), which holds for validation and test too
    unless `eval_max_objects` says otherwise (0: all scenes, up to 10 objects).

    Reference:
        Kabra et al., Multi-Object Datasets, 2019, github.com/deepmind/multi_object_datasets; Locatello et al.,
        Object-Centric Learning with Slot Attention, arXiv:2006.15055.
    """

    name = "clevr_with_masks"
    recommended: ClassVar[dict[str, Any]] = {
        "resolution": 128,
        "num_slots": 7,
        "max_steps": 100_000,
        "max_objects": 6,
    }
    published: ClassVar[PublishedSplit] = PublishedSplit(train=70_000, test=320)
    how_to_get = (
        "convert the published TFRecord file once by `python data_scripts/convert_tfrecords.py SOURCE.tfrecords OUT.h5`"
    )
