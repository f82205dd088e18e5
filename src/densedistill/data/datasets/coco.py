"""COCO: 80 classes of objects in everyday scenes.

T.-Y. Lin et al., Microsoft COCO: Common objects in context, ECCV 2014, https://cocodataset.org.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import UserError
from .. import formats
from . import DATASETS
from ._base import Frame
from ._boxes import Annotated, Boxes


@DATASETS.register("coco")
class COCO(Boxes):
    """COCO 2017's `train` and `val` boxes; classes are numbered in the order of the file's categories.

    Crowds are ignored: no network learns them, and answers there count neither for nor against. Images
    without a box stay, as background.

    Args:
        annotations: another JSON file in COCO's format, relative to `root`; images then lie in `images`. One
            without boxes, as of COCO's unlabelled and test images, takes `labelled: false`.
        images: the folder of the images, relative to `root`; default the split's in `root` or in
            `root`/images.
        **options: as every data set of boxes; `bad_boxes` is `skip` here, since COCO holds a few.
    """

    name = "coco"
    layout = "train2017/NAME.jpg and annotations/instances_train2017.json, val2017 likewise"
    splits = ("train", "val")

    def __init__(
        self,
        root: str | os.PathLike[str] | None = None,
        split: str | None = None,
        annotations: str | None = None,
        images: str | None = None,
        bad_boxes: str = "skip",
        **options: Any,
    ):
        self.annotations, self.images = annotations, images
        self.objects: dict[Path, list[Annotated]] = {}
        self.sizes: dict[Path, tuple[Any, Any]] = {}
        super().__init__(root, split, bad_boxes=bad_boxes, **options)

    def list_frames(self) -> list[Frame]:
        path = self.root / (self.annotations or f"annotations/instances_{self.split}2017.json")
        if not path.is_file():
            return []
        named = f"{self.split}2017"
        usual = next((name for name in (named, f"images/{named}") if (self.root / name).is_dir()), named)
        folder = self.root / (self.images or usual)
        try:
            content = json.loads(formats.read_bytes(path))
            listed = sorted(content["categories"], key=lambda c: c["id"])
            for key in ("id", "name"):
                seen: dict[Any, Any] = {}
                for other in listed:
                    one = seen.setdefault(other[key], other)
                    if one is not other:
                        raise UserError(
                            f"{path}: two categories, {one['id']} '{one['name']}' and {other['id']} "
                            f"'{other['name']}', have one {key}; give each its own"
                        )
            categories = {c["id"]: c["name"] for c in listed}
            pictures = {p["id"]: folder / p["file_name"] for p in content["images"]}
            for thing in content["annotations"] if self.labelled else ():
                for key, known in (("image_id", pictures), ("category_id", categories)):
                    if thing[key] not in known:
                        raise UserError(
                            f"{path}: a box is of {key} {thing[key]}, which the file does not list"
                        )
                left, top, width, height = map(float, thing["bbox"])
                box = (left, top, left + width, top + height)
                self.objects.setdefault(pictures[thing["image_id"]], []).append(
                    Annotated(categories[thing["category_id"]], box, bool(thing.get("iscrowd")))
                )
        except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, ValueError) as error:
            raise UserError(f"{path} is not in COCO's format: {type(error).__name__} {error}") from None
        self.classes = tuple(categories.values())
        self.sizes = {pictures[p["id"]]: (p.get("height"), p.get("width")) for p in content["images"]}
        return [
            Frame(_name(p["file_name"]), {"image": pictures[p["id"]], "labels": path})
            for p in content["images"]
        ]

    def read_truth(self, frame: Frame, image: NDArray[np.uint8]) -> dict[str, Any]:
        path = frame.files["image"]
        self.check_size(frame, image, self.sizes[path])
        return self.truth_of(self.objects.get(path, ()), image, path)


def _name(file: str) -> str:
    """Return the name of a picture, its folders in it, since pictures of one name may lie in several."""
    path = Path(file).with_suffix("")
    return "/".join(part for part in path.parts if part not in ("..", path.anchor))
