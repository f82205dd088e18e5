"""Scene-flow data sets on files made in their real layouts, and on Sintel's where it is there."""

import os
from pathlib import Path

import numpy as np
import pytest

import densedistill as dd
from densedistill.data import formats

SIZE = (6, 8)


def picture(path, value=100):
    path.parent.mkdir(parents=True, exist_ok=True)
    formats.write_image(path, np.full((*SIZE, 3), value, np.uint8))


def pfm(path, value, channels=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    formats.write_pfm(path, np.full((*SIZE, *([channels] if channels else [])), value, np.float32))


def truth(base, stem, first, second, motion, names=("disp_occ_0", "disp_occ_1", "flow_occ"), unknown=1):
    for name, value in zip(names, (first, second, motion), strict=True):
        path = base / name / f"{stem}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        known = np.ones(SIZE, bool)
        known[:unknown] = False
        if name.startswith("flow"):
            formats.write_flow_png(path, np.full((*SIZE, 2), value, np.float32), known)
        else:
            formats.write_disparity_png(path, np.full(SIZE, value, np.float32), known)


@pytest.fixture
def kitti(tmp_path):
    base = tmp_path / "training"
    for sequence in (0, 159, 160):
        for number in (9, 10, 11, 19, 20):
            for view in ("image_2", "image_3"):
                picture(base / view / f"{sequence:06d}_{number:02d}.png", number)
        stem = f"{sequence:06d}_10"
        truth(base, stem, 20, 22, -3)
        truth(base, stem, 20, 22, -3, ("disp_noc_0", "disp_noc_1", "flow_noc"), unknown=3)
        picture(base / "obj_map" / f"{stem}.png", 0)
        for number in (9, 10, 19):
            truth(tmp_path / "proxy", f"{sequence:06d}_{number:02d}", 5, 6, 7, ("disp_0", "disp_1", "flow"))
    for path in (base / "obj_map").iterdir():
        formats.write_image(path, np.arange(48, dtype=np.uint8).reshape(SIZE) % 2)
    return tmp_path


def test_kitti_scene_flow_is_the_annotated_pair(kitti):
    data = dd.create_dataset("kitti2015_sceneflow", root=kitti)
    assert data.task == "sceneflow"
    assert data.names == ["000000_10", "000159_10", "000160_10"]
    sample = data[0]
    assert sample["left"].shape == (3, *SIZE)
    for view in ("left", "right"):
        assert (sample[view] == 10).all()
        assert (sample[f"{view}_next"] == 11).all()
    assert sample["disparity"][0, 1, 0] == 20
    assert sample["disparity_next"][0, 1, 0] == 22
    assert sample["flow"].shape == (2, *SIZE)
    assert (sample["flow"][:, 1:] == -3).all()
    assert not sample["flow_valid"][0, 0].any()
    assert sample["flow_valid"][0, 1:].all()
    for key in ("disparity", "disparity_next", "flow"):
        assert (sample[f"{key}_valid"].sum(), sample[f"{key}_nonoccluded"].sum()) == (40, 24)
    assert sample["objects"].sum() == 24


def test_kittis_test_sequences_are_images_and_the_cameras_that_took_them(kitti):
    (kitti / "training").rename(kitti / "testing")
    rows = [f"P_rect_0{n}: 700 0 {600 + n} {-70 * n} 0 700 180 0 0 0 1 0" for n in range(4)]
    (kitti / "testing/calib_cam_to_cam").mkdir()
    (kitti / "testing/calib_cam_to_cam/000159.txt").write_text("\n".join(rows))
    data = dd.create_dataset("kitti2015_sceneflow", root=kitti, split="test")
    assert data[0].keys() == {"left", "right", "left_next", "right_next", "meta"}
    assert data[0]["meta"]["calibration"] is None
    assert data[1]["meta"]["calibration"].cx == 602


def test_kittis_division_is_by_sequence(kitti):
    names = {s: dd.create_dataset("kitti2015_sceneflow", root=kitti, split=s).names for s in ("fit", "val")}
    assert names == {"fit": ["000000_10", "000159_10"], "val": ["000160_10"]}


def test_a_frame_without_its_next_is_named(kitti):
    with pytest.raises(dd.UserError, match=r"left image at t1, .*000000_12\.png is missing"):
        dd.create_dataset("kitti2015_multiview", root=kitti, split="fit")


@pytest.fixture
def whole(kitti):
    """The extension with all frames from 9 to 20."""
    for sequence in (0, 159, 160):
        for number in range(12, 19):
            for view in ("image_2", "image_3"):
                picture(kitti / "training" / view / f"{sequence:06d}_{number:02d}.png", number)
        for number in (11, *range(12, 19)):
            truth(kitti / "proxy", f"{sequence:06d}_{number:02d}", 5, 6, 7, ("disp_0", "disp_1", "flow"))
    return kitti


def test_the_multi_view_extension_has_every_start_frame(whole):
    data = dd.create_dataset("kitti2015_multiview", root=whole, split="fit", limit=3)
    assert "disparity" not in data[0]
    assert len(data) == 3
    assert len(dd.create_dataset("kitti2015_multiview", root=whole)) == 3 * 11


def test_proxies_stand_for_the_truth_and_mixed_prefers_the_truth(whole):
    proxies = dd.create_dataset("kitti2015_multiview", root=whole, split="fit", proxy="proxy")
    assert len(proxies) == 2 * 11
    assert all((proxies[i]["disparity"][0, 1:] == 5).all() for i in (0, 1, 5))
    mixed = dd.create_dataset("kitti2015_multiview", root=whole, split="fit", labels="mixed", proxy="proxy")
    values = {name: float(mixed[i]["disparity"][0, 1, 0]) for i, name in enumerate(mixed.names)}
    assert len(values) == 22
    assert {name for name, value in values.items() if value == 20} == {"000000_10", "000159_10"}
    annotated = dd.create_dataset("kitti2015_multiview", root=whole, split="fit", labels="gt")
    assert annotated.names == ["000000_10", "000159_10"]
    with pytest.raises(dd.UserError, match="need the folder `proxy`"):
        dd.create_dataset("kitti2015_multiview", root=whole, labels="proxy")
    with pytest.raises(dd.UserError, match=r"there is no folder .* of proxy labels"):
        dd.create_dataset("kitti2015_multiview", root=whole, proxy="nowhere")


def things_full(root, part="TRAIN"):
    inside = Path(part) / "A/0000"
    for number in (6, 7):
        for view in ("left", "right"):
            picture(root / "frames_cleanpass" / inside / view / f"{number:04d}.png", number)
    pfm(root / "disparity" / inside / "left" / "0006.pfm", 12.0)
    pfm(root / "disparity_change" / inside / "into_future" / "left" / "0006.pfm", -2.0)
    pfm(root / "optical_flow" / inside / "into_future" / "left" / "OpticalFlowIntoFuture_0006_L.pfm", 3.0, 3)


def test_flyingthings3d_full_layout_adds_the_change(tmp_path):
    things_full(tmp_path)
    picture(tmp_path / "frames_cleanpass/TRAIN/A/0000/left/preview.png", 0)
    data = dd.create_dataset("flyingthings3d", root=tmp_path)
    assert data.names == ["TRAIN/A/0000/0006"], "a preview is no frame"
    things_full(tmp_path, "TEST")
    assert dd.create_dataset("flyingthings3d", root=tmp_path, split="test").names == ["TEST/A/0000/0006"]
    sample = data[0]
    assert (sample["disparity"] == 12).all()
    assert (sample["disparity_next"] == 10).all()
    assert (sample["flow"] == 3).all()
    assert sample["flow"].shape == (2, *SIZE)


def test_flyingthings3d_reads_the_images_of_its_smaller_archives(tmp_path):
    things_full(tmp_path)
    (tmp_path / "frames_cleanpass").rename(tmp_path / "frames_cleanpass_webp")
    for path in (tmp_path / "frames_cleanpass_webp").rglob("*.png"):
        formats.write_image(path.with_suffix(".webp"), formats.read_image(path))
        path.unlink()
    data = dd.create_dataset("flyingthings3d", root=tmp_path)
    assert data.names == ["TRAIN/A/0000/0006"]
    assert data.frames[0].files["right_next"].name == "0007.webp"
    assert data[0]["left_next"].float().mean() == pytest.approx(7, abs=3)


def test_flyingthings3d_subset_layout_is_negated_and_clips_do_not_run_into_each_other(tmp_path):
    base = tmp_path / "train"
    picture(base / "image_clean" / "left" / "preview.png", 0)
    for number in (8, 9, 10, 118, 119, 120):
        for view in ("left", "right"):
            picture(base / "image_clean" / view / f"{number:07d}.png", number)
        pfm(base / "disparity" / "left" / f"{number:07d}.pfm", -12.0)
        pfm(base / "disparity_change" / "left" / "into_future" / f"{number:07d}.pfm", 2.0)
        flow = base / "flow" / "left" / "into_future" / f"{number:07d}.flo"
        flow.parent.mkdir(parents=True, exist_ok=True)
        formats.write_flo(flow, np.full((*SIZE, 2), 4, np.float32))
    data = dd.create_dataset("flyingthings3d", root=tmp_path)
    assert data.names == ["train/0000008", "train/0000118"], "9 and 119 are their clips' last"
    sample = data[0]
    assert (sample["disparity"] == 12).all()
    assert (sample["disparity_next"] == 10).all()
    for view in ("left", "right"):
        assert ((sample[view] == 8) & (sample[f"{view}_next"] == 9)).all()
    assert (sample["flow"] == 4).all()
    assert not {"flow_nonoccluded", "disparity_nonoccluded"} & sample.keys()
    for folder, pixels in (("flow_occlusions/left/into_future", 5), ("disparity_occlusions/left", 9)):
        hidden = np.where(np.arange(48).reshape(SIZE) < pixels, 255, 0).astype(np.uint8)
        formats.write_image(base / folder / "0000008.png", hidden)
    sample = dd.create_dataset("flyingthings3d", root=tmp_path)[0]
    assert (sample["flow_nonoccluded"].sum(), sample["disparity_nonoccluded"].sum()) == (43, 39)
    base.rename(tmp_path / "val")
    assert dd.create_dataset("flyingthings3d", root=tmp_path, split="test").names[0] == "val/0000008"


def test_flyingthings3d_leaves_out_what_is_known_to_be_broken_in_the_subset(tmp_path):
    base = tmp_path / "val"
    for number in (878, 879, 3147, 3148):  # the flow of 879 and of 3147 is broken
        for view in ("left", "right"):
            picture(base / "image_final" / view / f"{number:07d}.png", number % 200)
        for folder in ("disparity/left", "disparity_change/left/into_future"):
            pfm(base / folder / f"{number:07d}.pfm", 1.0)
        (base / "flow/left/into_future").mkdir(parents=True, exist_ok=True)
        formats.write_flo(base / f"flow/left/into_future/{number:07d}.flo", np.zeros((*SIZE, 2), np.float32))
    options = {"root": tmp_path, "split": "test", "rendering": "final"}
    assert dd.create_dataset("flyingthings3d", **options).names == ["val/0000878"]
    assert dd.create_dataset("flyingthings3d", **options, skip_broken=False).names == [
        "val/0000878",
        "val/0003147",
    ]


def test_flyingthings3d_of_both_signs_is_refused(tmp_path):
    things_full(tmp_path)
    mixed = np.where(np.arange(48).reshape(SIZE) % 2, 5, -5).astype(np.float32)
    formats.write_pfm(tmp_path / "disparity/TRAIN/A/0000/left/0006.pfm", mixed)
    with pytest.raises(dd.UserError, match="disparities of both signs"):
        dd.create_dataset("flyingthings3d", root=tmp_path)


def test_sintel_reads_flow_and_what_is_invalid(tmp_path):
    base = tmp_path / "training"
    for number in (1, 2):
        picture(base / "clean" / "alley_1" / f"frame_{number:04d}.png", number)
    picture(base / "clean" / "alley_1" / "preview.png", 0)
    (base / "flow" / "alley_1").mkdir(parents=True)
    formats.write_flo(base / "flow" / "alley_1" / "frame_0001.flo", np.full((*SIZE, 2), 2, np.float32))
    (base / "invalid" / "alley_1").mkdir(parents=True)
    invalid = np.zeros(SIZE, np.uint8)
    invalid[0, 0] = 255
    formats.write_image(base / "invalid" / "alley_1" / "frame_0001.png", invalid)
    data = dd.create_dataset("sintel", root=tmp_path)
    assert data.names == ["alley_1/frame_0001"]
    sample = data[0]
    assert "right" not in sample
    assert not sample["flow_valid"][0, 0, 0]
    assert sample["flow_valid"].sum() == 47


def test_the_disparity_at_t1_is_read_alone_too(tmp_path, kitti):
    things_full(tmp_path / "fly")
    for name, root, value in (("flyingthings3d", tmp_path / "fly", 10), ("kitti2015_sceneflow", kitti, 22)):
        sample = dd.create_dataset(name, root=root, want=["disparity_next"])[0]
        assert sample["disparity_next"].max() == value
        assert not {"disparity", "flow"} & sample.keys()


@pytest.mark.parametrize("folder", ["disparity", "disparity_change"])
@pytest.mark.parametrize(
    ("shape", "says"), [((3, 8), "is 8x3 px, its image 8x6"), ((*SIZE, 3), r"is \(H, W\)")]
)
def test_a_disparity_or_its_change_of_another_size_is_named(folder, shape, says, tmp_path):
    things_full(tmp_path)
    (path,) = (tmp_path / folder).rglob("0006.pfm")
    formats.write_pfm(path, np.ones(shape, np.float32))
    with pytest.raises(dd.UserError, match=f"{path} .*{says}"):
        dd.create_dataset("flyingthings3d", root=tmp_path)[0]


def test_flow_of_one_channel_or_no_number_is_told_or_masked(tmp_path):
    things_full(tmp_path)
    path = tmp_path / "optical_flow/TRAIN/A/0000/into_future/left/OpticalFlowIntoFuture_0006_L.pfm"
    flow = np.ones((*SIZE, 3), np.float32)
    flow[1, 2, 1] = np.nan
    formats.write_pfm(path, flow)
    sample = dd.create_dataset("flyingthings3d", root=tmp_path)[0]
    assert sample["flow_valid"].sum() == 47
    assert (sample["flow"][:, 1, 2] == 0).all()
    pfm(path, -3)
    with pytest.raises(dd.UserError, match="has one channel; flow has x and y"):
        dd.create_dataset("flyingthings3d", root=tmp_path)[0]


def test_sintels_stereo_archive_gives_pairs_and_disparity(tmp_path):
    base = tmp_path / "training"
    for number in (1, 2, 3):
        picture(base / "clean_left" / "cave_2" / f"frame_{number:04d}.png", number)
        picture(base / "clean" / "cave_2" / f"frame_{number:04d}.png", 100)  # the flow's own, with fog
        if number < 3:
            picture(base / "clean_right" / "cave_2" / f"frame_{number:04d}.png", 10 * number)
        flow = base / "flow" / "cave_2" / f"frame_{number:04d}.flo"
        flow.parent.mkdir(parents=True, exist_ok=True)
        values = np.full((*SIZE, 2), number, np.float32)
        values[1, 0, 0] = 1e10  # the format's word for unknown
        formats.write_flo(flow, values)
    hidden = np.where(np.arange(48).reshape(SIZE) < 5, 255, 0).astype(np.uint8)
    formats.write_image(base / "occlusions/cave_2/frame_0001.png", hidden)
    coded = np.broadcast_to(np.array([3, 32, 128], np.uint8), (*SIZE, 3)).copy()
    formats.write_image(base / "disparities/cave_2/frame_0001.png", coded)
    data = dd.create_dataset("sintel", root=tmp_path)
    first, second = data
    assert ((first["left"] == 1) & (first["left_next"] == 2)).all()
    assert (first["right"] == 10).all()
    assert (first["right_next"] == 20).all()
    assert first["disparity"].unique().tolist() == [3 * 4 + 32 / 64 + 128 / 16384]
    assert (first["flow_valid"].sum(), first["flow_nonoccluded"].sum()) == (47, 42)
    assert not {"right", "right_next", "disparity"} & second.keys(), "its next frame has no right view"
    formats.write_image(base / "disparities/cave_2/frame_0001.png", coded[..., 0])
    with pytest.raises(dd.UserError, match=r"0001\.png is no 8-bit colour PNG \(it is uint8, \(6, 8\)\)"):
        dd.create_dataset("sintel", root=tmp_path)[0]
    formats.write_image(base / "disparities/cave_2/frame_0001.png", coded)
    outside = np.where(np.arange(48).reshape(SIZE) >= 40, 255, 0).astype(np.uint8)
    formats.write_image(base / "outofframe/cave_2/frame_0001.png", outside)
    archives = dd.create_dataset("sintel", root=tmp_path)[0]
    assert "flow_nonoccluded" not in archives, "the archive's own masks"
    assert archives["disparity_nonoccluded"].sum() == 48 - 5 - 8
    formats.write_image(base / "outofframe/cave_2/frame_0001.png", outside[:3])
    with pytest.raises(dd.UserError, match=r"outofframe/cave_2/frame_0001\.png is 8x3 px, its image 8x6"):
        dd.create_dataset("sintel", root=tmp_path)[0]
    base.rename(tmp_path / "test")
    assert "flow" not in dd.create_dataset("sintel", root=tmp_path, split="test")[0]


@pytest.mark.parametrize("folder", ["disp_noc_0", "obj_map"])
def test_a_mask_of_another_size_is_named(folder, kitti):
    path = kitti / "training" / folder / "000000_10.png"
    formats.write_image(path, formats.read_raster(path)[:, :-2])
    with pytest.raises(dd.UserError, match="is 6x6 px, its image 8x6"):
        dd.create_dataset("kitti2015_sceneflow", root=kitti)[0]


def test_a_truth_of_another_size_is_named(kitti):
    formats.write_disparity_png(kitti / "training/disp_occ_1/000000_10.png", np.ones((4, 4), np.float32))
    with pytest.raises(dd.UserError, match=r"disp_occ_1/000000_10\.png is 4x4 px, its image 8x6"):
        dd.create_dataset("kitti2015_sceneflow", root=kitti)[0]


def test_data_check_knows_these_data_sets(kitti):
    from densedistill.data.check import check_dataset

    (kitti / "training" / "flow_occ" / "000160_10.png").unlink()
    surveys = {survey.split: survey for survey in check_dataset("kitti2015_sceneflow", kitti)}
    assert surveys["train"].roles["flow"].found == 2
    assert len(surveys["train"].roles["flow"].missing) == 1
    assert not surveys["train"].usable


REAL = Path(os.environ.get("DENSEDISTILL_DATA", "")) / "flow" / "sintel"


def test_dis_finds_the_flow_of_a_real_frame_of_sintel():
    from densedistill.distillation.teachers import create_teacher

    if "DENSEDISTILL_DATA" not in os.environ or not REAL.is_dir():
        return  # tests/data/test_real_data.py says what was not tried
    sample = dd.create_dataset("sintel", root=REAL)[0]
    flow = create_teacher("dis")({key: sample[key][None] for key in ("left", "left_next")})["flow"]
    valid = (sample["flow_valid"] & sample.get("flow_nonoccluded", sample["flow_valid"]))[None]
    assert float(dd.metrics.flow_epe(flow, sample["flow"][None], valid)) < 1.0
