"""Every data set in every layout it is unpacked to, made small: a few pairs whose truth is known exactly."""

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from densedistill.data import create_dataset, formats

# Needs data that may not ship; tests/conftest.py says so at the end of a run.
collect_ignore = [] if os.environ.get("DENSEDISTILL_DATA") else ["test_real_data.py"]

HEIGHT, WIDTH = 32, 60


@dataclass
class Scene:
    """A pair whose left view is the right one moved by 4 px above and 8 below, with a hole in the truth."""

    left: np.ndarray
    right: np.ndarray
    disparity: np.ndarray
    disparity_right: np.ndarray
    seen: np.ndarray

    @classmethod
    def make(cls, seed: int, grey: bool = False) -> "Scene":
        rng = np.random.default_rng(seed)
        right = (
            rng.integers(0, 256, (HEIGHT, WIDTH, 1 if grey else 3))
            .astype(np.uint8)
            .repeat(3 if grey else 1, 2)
        )
        disparity = np.where(np.arange(HEIGHT) < HEIGHT // 2, 4, 8)[:, None].repeat(WIDTH, 1)
        column = np.arange(WIDTH)[None] - disparity
        left = np.take_along_axis(right, np.clip(column, 0, None)[..., None], axis=1)
        disparity_right = np.where(np.arange(WIDTH)[None] + disparity < WIDTH, disparity, 0).astype(
            np.float32
        )
        seen = column >= 0
        disparity = disparity.astype(np.float32)
        disparity[5:9, 20:30] = 0
        return cls(left, right, disparity, disparity_right, seen & (disparity > 0))


@dataclass
class Layout:
    """A data set on disk: how to open it and what it should hold."""

    name: str
    options: dict[str, Any] = field(default_factory=dict)
    scenes: dict[str, Scene] = field(default_factory=dict)
    has: frozenset[str] = frozenset({"disparity"})
    root: Path = Path()

    def open(self, **options: Any) -> Any:
        return create_dataset(self.name, self.root, **{**self.options, **options})


def unknown_as_inf(disparity: np.ndarray) -> np.ndarray:
    return np.where(disparity > 0, disparity, np.inf).astype(np.float32)


def mask_of(scene: Scene) -> np.ndarray:
    return np.where(scene.disparity == 0, 0, np.where(scene.seen, 255, 128)).astype(np.uint8)


def scene_flow(
    folder: Path, rendering: str, truth: str, inside: str, stem: str, scene: Scene, sign: int = 1
) -> None:
    for view, image, disparity, factor in (
        ("left", scene.left, scene.disparity, sign),
        ("right", scene.right, scene.disparity_right, 1),
    ):
        formats.write_image(folder / rendering / inside / view / f"{stem}.png", image)
        formats.write_pfm(folder / truth / inside / view / f"{stem}.pfm", factor * disparity)


def sceneflow_merged(root: Path) -> Layout:
    places = ["TRAIN/A/0000", "TRAIN/a_rain_of_stones_x2", "TRAIN/15mm_focallength/scene_forwards/fast"]
    scenes = {f"{place}/0006": Scene.make(seed) for seed, place in enumerate(places)}
    for (name, scene), place in zip(scenes.items(), places, strict=True):
        scene_flow(root, "frames_finalpass", "disparity", place, Path(name).name, scene)
    scene_flow(root, "frames_finalpass", "disparity", "TEST/B/0001", "0007", Scene.make(9))
    scene_flow(root, "frames_cleanpass", "disparity", "TRAIN/A/0000", "0006", Scene.make(10))
    return Layout("sceneflow", {"split": "train"}, scenes, frozenset({"disparity", "disparity_right"}))


def sceneflow_side_by_side(root: Path) -> Layout:
    places = {
        "FlyingThings3D": "TRAIN/C/0002",
        "Monkaa": "eating_camera2_x2",
        "Driving": "35mm_focallength/scene_backwards/slow",
    }
    scenes = {}
    for seed, (subset, place) in enumerate(places.items()):
        scenes[f"{subset}/{place}/0010"] = Scene.make(seed)
        scene_flow(root / subset, "frames_cleanpass", "disparity", place, "0010", Scene.make(seed))
    scene_flow(root / "FlyingThings3D", "frames_cleanpass", "disparity", "TEST/A/0000", "0006", Scene.make(8))
    options = {"split": "train", "rendering": "clean"}
    return Layout("sceneflow", options, scenes, frozenset({"disparity", "disparity_right"}))


def sceneflow_prefixed(root: Path) -> Layout:
    scenes = {"monkaa/a_rain_of_stones_x2/0000": Scene.make(0), "TEST/A/0000/0006": Scene.make(1)}
    monkaa, things = scenes.values()
    scene_flow(root, "monkaa_frames_cleanpass", "monkaa_disparity", "a_rain_of_stones_x2", "0000", monkaa)
    scene_flow(root, "frames_cleanpass", "frames_disparity", "TEST/A/0000", "0006", things)
    return Layout("sceneflow", {}, scenes, frozenset({"disparity", "disparity_right"}))


def sceneflow_subset(root: Path) -> Layout:
    scene = Scene.make(0)
    scene_flow(root / "val", "image_clean", "disparity", "", "0000000", scene, sign=-1)
    mask = np.where(scene.seen, 0, 255).astype(np.uint8)
    formats.write_image(root / "val" / "disparity_occlusions" / "left" / "0000000.png", mask)
    has = frozenset({"disparity", "disparity_right", "disparity_nonoccluded"})
    return Layout("sceneflow", {"split": "test"}, {"val/0000000": scene}, has)


def kitti2012(root: Path, views: tuple[str, str] = ("colored_0", "colored_1")) -> Layout:
    scenes = {f"00000{i}_10": Scene.make(i, grey=views[0] == "image_0") for i in range(3)}
    for name, scene in scenes.items():
        kitti_pair(root, views, name, scene)
        formats.write_disparity_png(
            root / f"training/disp_occ/{name}.png", scene.disparity, scene.disparity > 0
        )
        formats.write_disparity_png(root / f"training/disp_noc/{name}.png", scene.disparity, scene.seen)
        formats.write_image(root / f"training/{views[0]}/{name[:-2]}11.png", scene.right)
    return Layout("kitti2012", {}, scenes, frozenset({"disparity", "disparity_nonoccluded"}))


def kitti2012_grey(root: Path) -> Layout:
    return kitti2012(root, ("image_0", "image_1"))


def kitti2015(root: Path) -> Layout:
    scenes = {f"0001{i:02}_10": Scene.make(i) for i in range(7)}
    for name, scene in scenes.items():
        kitti_pair(root, ("image_2", "image_3"), name, scene)
        formats.write_disparity_png(
            root / f"training/disp_occ_0/{name}.png", scene.disparity, scene.disparity > 0
        )
        formats.write_disparity_png(root / f"training/disp_noc_0/{name}.png", scene.disparity, scene.seen)
        formats.write_image(root / f"training/obj_map/{name}.png", (scene.disparity == 8).astype(np.uint8))
    formats.write_image(root / "testing/image_2/000000_10.png", scene.left)
    formats.write_image(root / "testing/image_3/000000_10.png", scene.right)
    return Layout("kitti2015", {}, scenes, frozenset({"disparity", "disparity_nonoccluded", "objects"}))


def kitti_pair(root: Path, views: tuple[str, str], name: str, scene: Scene) -> None:
    for view, image in zip(views, (scene.left, scene.right), strict=True):
        formats.write_image(root / "training" / view / f"{name}.png", image)


def middlebury_scene(images: Path, truth: Path, scene: Scene, suffix: str, mask: bool) -> None:
    formats.write_image(images / "im0.png", scene.left)
    formats.write_image(images / "im1.png", scene.right)
    formats.write_pfm(truth / f"disp0{suffix}.pfm", unknown_as_inf(scene.disparity))
    if mask:
        formats.write_image(truth / "mask0nocc.png", mask_of(scene))
    else:
        formats.write_pfm(truth / f"disp1{suffix}.pfm", unknown_as_inf(scene.disparity_right))


def middlebury2014(root: Path) -> Layout:
    scenes = {"Adirondack-perfect": Scene.make(0), "Piano-imperfect": Scene.make(1)}
    for name, scene in scenes.items():
        middlebury_scene(root / name, root / name, scene, "", mask=False)
        (root / name / "calib.txt").write_text(
            "cam0=[3997.684 0 1176.728; 0 3997.684 1011.728; 0 0 1]\n"
            "cam1=[3997.684 0 1307.839; 0 3997.684 1011.728; 0 0 1]\n"
            "doffs=131.111\nbaseline=193.001\nwidth=60\nheight=32\nndisp=280\nisint=0\nvmin=31\nvmax=257\n"
        )
    has = frozenset({"disparity", "disparity_right", "disparity_nonoccluded", "calibration"})
    return Layout("middlebury2014", {}, scenes, has)


def middleburyeval3(root: Path) -> Layout:
    scenes = {"Adirondack": Scene.make(0), "Jadeplant": Scene.make(1)}
    for name, scene in scenes.items():
        folder = root / "MiddEval3" / "trainingH" / name
        middlebury_scene(folder, folder, scene, "GT", mask=True)
        middlebury_scene(
            root / "MiddEval3/trainingQ" / name, root / "elsewhere", Scene.make(7), "GT", mask=True
        )
    return Layout("middleburyeval3", {}, scenes, frozenset({"disparity", "disparity_nonoccluded"}))


def eth3d(root: Path) -> Layout:
    scenes = {"delivery_area_1l": Scene.make(0, grey=True), "forest_2s": Scene.make(1, grey=True)}
    for name, scene in scenes.items():
        images, truth = root / "two_view_training" / name, root / "two_view_training_gt" / name
        middlebury_scene(images, truth, scene, "GT", mask=True)
        for view in ("im0.png", "im1.png"):  # ETH3D's images have one channel
            formats.write_image(images / view, formats.read_image(images / view)[..., 0])
    return Layout("eth3d", {}, scenes, frozenset({"disparity", "disparity_nonoccluded"}))


def eth3d_merged(root: Path) -> Layout:
    scene = Scene.make(0)
    middlebury_scene(root / "terrace_1s", root / "terrace_1s", scene, "GT", mask=True)
    return Layout("eth3d", {}, {"terrace_1s": scene}, frozenset({"disparity", "disparity_nonoccluded"}))


def middlebury2003(root: Path) -> Layout:
    return middlebury_8_bit(root, ("im2", "im6"), ("disp2", "disp6"), 4)


def middlebury2006(root: Path) -> Layout:
    return middlebury_8_bit(root, ("view1", "view5"), ("disp1", "disp5"), 3)


def middlebury_8_bit(root: Path, views: tuple[str, str], truths: tuple[str, str], scale: int) -> Layout:
    scenes = {"cones": Scene.make(0), "teddy": Scene.make(1)}
    for name, scene in scenes.items():
        for view, image in zip(views, (scene.left, scene.right), strict=True):
            formats.write_image(root / name / f"{view}.png", image)
        for truth, disparity in zip(truths, (scene.disparity, scene.disparity_right), strict=True):
            formats.write_image(root / name / f"{truth}.png", (disparity * scale).astype(np.uint8))
    has = frozenset({"disparity", "disparity_right", "disparity_nonoccluded"})
    return Layout("middlebury2003", {}, scenes, has)


def drivingstereo(root: Path, size: str = "", scale: float = 256) -> Layout:
    name = "2018-07-11-14-48-52/2018-07-11-14-48-52_2018-07-11-14-50-08-769"
    scene = Scene.make(0)
    for kind, image in (("left-image", scene.left), ("right-image", scene.right)):
        formats.write_image(
            root / f"test-{kind}" / (f"{kind}-{size}-size" if size else "") / f"{name}.png", image
        )
    folder = root / "test-disparity-map" / (f"disparity-map-{size}-size" if size else "")
    formats.write_image(folder / f"{name}.png", (scene.disparity * scale).astype(np.uint16))
    return Layout("drivingstereo", {"split": "test"}, {name: scene})


def drivingstereo_full(root: Path) -> Layout:
    layout = drivingstereo(root, "full", 128)
    layout.options["resolution"] = "full"
    return layout


def drivingstereo_weather(root: Path) -> Layout:
    scene = Scene.make(0)
    for kind, image in (("left-image", scene.left), ("right-image", scene.right)):
        formats.write_image(root / f"rainy/{kind}-half-size/a.png", image)
    formats.write_disparity_png(
        root / "rainy/disparity-map-half-size/a.png", scene.disparity, scene.disparity > 0
    )
    return Layout("drivingstereo", {"split": "rainy"}, {"a": scene})


def folder_of(root: Path, write: Callable[[Path, np.ndarray], None], suffix: str) -> Layout:
    scenes = {"drive1/0001": Scene.make(0), "drive1/0002": Scene.make(1), "single": Scene.make(2)}
    for name, scene in scenes.items():
        formats.write_image(root / f"left/{name}.png", scene.left)
        formats.write_image(root / f"right/{name}.png", scene.right)
        (root / "disparity" / name).parent.mkdir(parents=True, exist_ok=True)
        write(root / "disparity" / f"{name}{suffix}", scene.disparity)
    return Layout("folder", {}, scenes)


def folder_pfm(root: Path) -> Layout:
    return folder_of(root, lambda path, d: formats.write_pfm(path, unknown_as_inf(d)), ".pfm")


def folder_npy(root: Path) -> Layout:
    return folder_of(root, lambda path, d: np.save(path, np.where(d > 0, d, np.nan)), ".npy")


def folder_png(root: Path) -> Layout:
    return folder_of(root, lambda path, d: formats.write_disparity_png(path, d, d > 0), ".png")


def folder_8_bit(root: Path) -> Layout:
    layout = folder_of(root, lambda path, d: formats.write_image(path, (d * 2).astype(np.uint8)), ".png")
    layout.options["disparity_scale"] = 2
    return layout


def folder_listed(root: Path) -> Layout:
    """KITTI as a published list names it, tabs and spaces between."""
    kitti = kitti2015(root)
    lines = [
        f"training/image_2/{name}.png\ttraining/image_3/{name}.png  training/disp_occ_0/{name}.png"
        for name in kitti.scenes
    ]
    (root / "train.txt").write_text("\n".join(lines) + "\n")
    scenes = {f"training/image_2/{name}": scene for name, scene in kitti.scenes.items()}
    return Layout("folder", {"pairs": "train.txt"}, scenes)


def folder_unlabelled(root: Path) -> Layout:
    scene = Scene.make(0)
    formats.write_image(root / "image_0/a.png", scene.left)
    formats.write_image(root / "image_1/a.png", scene.right)
    return Layout("folder", {}, {"a": scene}, frozenset())


LAYOUTS = (
    sceneflow_merged,
    sceneflow_side_by_side,
    sceneflow_prefixed,
    sceneflow_subset,
    kitti2012,
    kitti2012_grey,
    kitti2015,
    middlebury2014,
    middleburyeval3,
    middlebury2003,
    middlebury2006,
    eth3d,
    eth3d_merged,
    drivingstereo,
    drivingstereo_full,
    drivingstereo_weather,
    folder_pfm,
    folder_npy,
    folder_png,
    folder_8_bit,
    folder_listed,
    folder_unlabelled,
)


def _made(maker: Callable[[Path], Layout], root: Path) -> Layout:
    layout = maker(root)
    layout.root = root
    return layout


@pytest.fixture(params=LAYOUTS, ids=lambda maker: maker.__name__)
def layout(request, tmp_path):
    """Each data set in each of its layouts, one after the other."""
    return _made(request.param, tmp_path)


@pytest.fixture
def make(tmp_path):
    """Make one layout by the name of its maker above."""
    makers = {maker.__name__: maker for maker in LAYOUTS}
    return lambda name: _made(makers[name], tmp_path)


@pytest.fixture
def warp_error():
    """Measure the mean grey-level difference of left and warped right where the truth is known."""
    return measure_warp_error


def measure_warp_error(sample: dict[str, Any], factor: float = 1.0) -> float:
    left, right = (sample[view][None].float() for view in ("left", "right"))
    height, width = left.shape[-2:]
    x = torch.arange(width) - factor * sample["disparity"][0]
    y = torch.arange(height)[:, None].expand(height, width)
    grid = torch.stack([2 * x / (width - 1) - 1, 2 * y / (height - 1) - 1], dim=-1)
    warped = F.grid_sample(right, grid[None], align_corners=True, padding_mode="border")
    known = sample.get("disparity_nonoccluded", sample["disparity_valid"])
    inside = torch.arange(width) - sample["disparity"] >= 0  # a crop may cut off what the left view sees
    return float((warped - left).abs().mean(dim=1)[known & inside].mean())
