"""Monocular depth in use: protocols' crops, placements and alignments, and files from any source."""

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

import densedistill as dd
from densedistill.data.calibration import Calibration
from densedistill.inference.images import to_batches
from densedistill.inference.inputs import inputs_from
from densedistill.inference.predict import predict
from densedistill.inference.protocols import get_protocol, list_protocols
from densedistill.inference.protocols.depth import eigen_crop, garg_crop, nyu_crop
from densedistill.inference.protocols.procedures import median_scaling, scale_and_shift
from densedistill.tasks import get_task
from densedistill.tasks.files import Predicted

DEPTH = get_task("depth")


class Ramp:
    """Says a depth that grows by the column, from 1 m at the left to 2 m, whatever the image."""

    name, task, precision = "ramp", DEPTH, "float32"

    def __init__(self):
        self.seen = []

    def __call__(self, *images):
        (image,) = to_batches(*images)
        self.seen.append(image)
        height, width = image.shape[-2:]
        row = 1 + torch.arange(width) / (width - 1)
        return {"depth": row.expand(len(image), 1, height, width).clone()}


class Hole(Ramp):
    """The same, but for one pixel that is no number."""

    def __call__(self, *images):
        depth = super().__call__(*images)["depth"]
        depth[..., 3, 5] = torch.nan
        return {"depth": depth}


def sample(depth, value=None):
    image = torch.randint(0, 256, (3, *depth.shape[-2:]), dtype=torch.uint8)
    return {"image": image, "depth": depth, "depth_valid": depth > 0, "meta": {"name": "a"}}


def test_the_crops_are_the_published_rows_and_columns():
    garg = garg_crop((352, 1216)).nonzero()
    assert (garg.min(0).values.tolist(), garg.max(0).values.tolist()) == ([143, 43], [348, 1171])
    nyu = nyu_crop((480, 640)).nonzero()
    assert (nyu.min(0).values.tolist(), nyu.max(0).values.tolist()) == ([45, 41], [470, 600])
    assert nyu_crop((240, 320)).all()
    eigen = eigen_crop((375, 1242)).nonzero()
    assert (eigen.min(0).values.tolist(), eigen.max(0).values.tolist()) == ([124, 44], [341, 1196])


def test_every_protocol_of_depth_averages_over_images():
    names = list_protocols("depth")
    assert {"images", "kitti", "kitti50", "kitti_eigen", "nyu", "nyu_lapdepth", "nyu_whole"} <= set(names)
    assert {"kitti+flip", "images+median", "nyu+flip+aligned", "images+aligned_inverse"} <= set(names)
    assert {get_protocol(name, DEPTH).average for name in names} == {"images"}
    with pytest.raises(dd.UserError, match="is for depth"):
        get_protocol("images+aligned", get_task("stereo"))


@pytest.mark.parametrize(("protocol", "rows"), [("nyu", (24, 472)), ("nyu_lapdepth", (42, 474))])
def test_a_network_sees_the_published_part_of_an_nyu_image(protocol, rows):
    ramp, one = Ramp(), sample(torch.full((1, 480, 640), 1.5))
    dd.evaluate({"ramp": ramp}, [one], protocol=protocol)
    assert ramp.seen[0].shape[-2:] == (rows[1] - rows[0], 576)
    seen = ramp.seen[0][0]
    seen = seen if seen.dtype == torch.uint8 else (255 * seen).round().byte()
    assert torch.equal(seen, one["image"][:, rows[0] : rows[1], 40:616])
    dd.evaluate({"ramp": ramp}, [one], protocol=f"{protocol}+flip")
    assert torch.equal(ramp.seen[-1], ramp.seen[-2].flip(-1)), "the part that is seen is mirrored"


def test_the_mirror_image_takes_a_ramp_away():
    truth = torch.full((1, 32, 64), 1.5)
    plain = dd.evaluate({"ramp": Ramp()}, [sample(truth)], protocol="images").rows[0]
    flipped = dd.evaluate({"ramp": Ramp()}, [sample(truth)], protocol="images+flip").rows[0]
    assert plain["abs_rel"] == pytest.approx(1 / 6, rel=0.05)
    assert flipped["abs_rel"] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(
    ("protocol", "change", "exact"),
    [
        ("images+median", lambda x: 3 * x, True),
        ("images+median", lambda x: 3 * x + 1, False),
        ("images+aligned", lambda x: 3 * x + 1, True),
        ("images+aligned_inverse", lambda x: 1 / (0.3 / x + 0.1), True),
        ("images+aligned_inverse", lambda x: 3 * x + 1, False),
        ("images", lambda x: 3 * x, False),
    ],
)
def test_alignment_undoes_what_it_says_and_no_more(protocol, change, exact):
    truth = change(1 + torch.arange(64) / 63).expand(1, 32, 64).clone()
    row = dd.evaluate({"ramp": Ramp()}, [sample(truth)], protocol=protocol).rows[0]
    assert (row["abs_rel"] < 1e-4) is exact
    assert (row["a1"] == 1) or not exact


def test_the_median_of_an_even_count_is_the_mean_of_the_middle_two():
    truth = torch.tensor([[[[2.0, 4.0, 8.0, 0.0, 10.0]]]])
    found = {"depth": torch.tensor([[[[1.0, 1.0, 3.0, 9.0, 9.0]]]])}
    scaled = median_scaling(found, {"depth": truth, "depth_valid": truth > 0})["depth"]
    torch.testing.assert_close(scaled, 3 * found["depth"])


@pytest.mark.parametrize("protocol", ["images+median", "images+aligned", "images+aligned_inverse"])
def test_an_answer_that_is_no_number_is_evaluated_as_wrong(protocol):
    truth = torch.full((1, 32, 64), 1.5)
    row = dd.evaluate({"hole": Hole()}, [sample(truth)], protocol=protocol).rows[0]
    assert row["a1"] < 1
    assert "abs_rel" not in row


def test_what_lies_beyond_the_cap_does_not_count():
    truth = (1 + torch.arange(1216) / 1215).expand(1, 352, 1216).clone()
    truth[:, :, 600:] = 85.0
    row = dd.evaluate({"ramp": Ramp()}, [sample(truth)], protocol="kitti").rows[0]
    assert row["abs_rel"] == pytest.approx(0, abs=1e-6)


def test_an_alignment_comes_before_the_cap():
    truth = (1 + torch.arange(1216) / 1215).expand(1, 352, 1216).clone()

    class Far(Ramp):
        def __call__(self, *images):
            return {"depth": 100 * super().__call__(*images)["depth"]}

    row = dd.evaluate({"far": Far()}, [sample(truth)], protocol="kitti+median").rows[0]
    assert row["abs_rel"] == pytest.approx(0, abs=1e-6)


def test_a_constant_answer_is_aligned_with_the_mean():
    truth = {"depth": torch.rand(1, 1, 4, 5) + 1, "depth_valid": torch.ones(1, 1, 4, 5, dtype=torch.bool)}
    aligned = scale_and_shift({"depth": torch.full((1, 1, 4, 5), 7.0)}, truth)["depth"]
    torch.testing.assert_close(aligned, truth["depth"].mean().expand(1, 1, 4, 5))


def test_plain_figures_are_the_mean_over_images_unless_pixels_are_pooled():
    near, far = torch.full((1, 32, 64), 1.5), torch.full((1, 32, 64), 3.0)
    far[:, :, 8:] = 0
    samples = [sample(near), sample(far)]
    alone = [dd.evaluate({"ramp": Ramp()}, [one]).rows[0]["abs_rel"] for one in samples]
    assert dd.evaluate({"ramp": Ramp()}, samples).rows[0]["abs_rel"] == pytest.approx(sum(alone) / 2)
    pooled = dd.evaluate({"ramp": Ramp()}, samples, per_image=False).rows[0]["abs_rel"]
    assert pooled == pytest.approx((8 * alone[0] + alone[1]) / 9)


def picture(path, height=24, width=32):
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.full((height, width, 3), 90, np.uint8))
    return path


def test_an_image_becomes_a_picture_a_16_bit_png_and_points(tmp_path):
    camera = Calibration(30.0, 30.0, 15.5, 11.5, baseline_m=0.0, size=(24, 32))
    out = tmp_path / "out"
    kinds = ["png", "pfm", "npy", "color", "ply"]
    predict(Ramp(), [picture(tmp_path / "a.png")], out, write=kinds, calibration=camera)
    expected = 1 + np.arange(32) / 31
    png = cv2.imread(str(out / "a.png"), cv2.IMREAD_UNCHANGED)
    assert png.dtype == np.uint16
    np.testing.assert_allclose(png / 256, np.tile(expected, (24, 1)), atol=1 / 512)
    np.testing.assert_allclose(np.load(out / "a.npy").squeeze()[3], expected, rtol=1e-6)
    colours = cv2.imread(str(out / "a.color.png"))[:, :, ::-1].astype(int)
    assert colours[0, 0, 0] > colours[0, 0, 2]  # near is red
    assert colours[0, -1, 1] > colours[0, -1].sum() / 2  # twice as far, half way to blue: green
    header, _, body = (out / "a.ply").read_bytes().partition(b"end_header\n")
    assert b"element vertex 768" in header
    points = np.frombuffer(body, np.dtype([("xyz", "<f4", 3), ("rgb", "u1", 3)]))["xyz"]
    np.testing.assert_allclose(points[0], [-15.5 / 30, -11.5 / 30, 1.0], rtol=1e-5)


def test_what_is_farther_than_the_png_can_tell_is_written_as_its_farthest(tmp_path):
    outputs = {"depth": np.array([[1.0, 300.0, np.inf, -1.0]], np.float32)}
    DEPTH.writers["png"].write(tmp_path / "a.png", Predicted(outputs, np.zeros((1, 4, 3), np.uint8)))
    stored = cv2.imread(str(tmp_path / "a.png"), cv2.IMREAD_UNCHANGED)
    assert stored.tolist() == [[256, round(255.99 * 256), 0, 0]]


def test_a_folder_is_predicted_under_its_names(tmp_path):
    for name in ("b.png", "sub/a.png"):
        picture(tmp_path / "in" / name)
    predict(Ramp(), tmp_path / "in", tmp_path / "out", write=["png"])
    assert (tmp_path / "out/b.png").is_file()
    assert (tmp_path / "out/sub/a.png").is_file()


def test_outputs_inside_the_folder_of_images_are_no_images(tmp_path):
    picture(tmp_path / "a.png")
    for skipped in (0, 1):
        assert predict(Ramp(), tmp_path, tmp_path / "out", write=["png"]).skipped == skipped
    assert predict(Ramp(), tmp_path / "out", tmp_path / "other", write=["pfm"]).written[0].name == "a.pfm"


@pytest.mark.parametrize(("images", "truth"), [("image", "depth"), ("JPEGImages", "SegmentationClass")])
def test_ground_truth_beside_a_folder_of_images_is_no_image(tmp_path, images, truth):
    root = tmp_path / "root"
    for name in (f"{images}/a.png", f"{truth}/a.png", "more/b.png"):
        picture(root / name)
    assert [one.name for one in inputs_from(DEPTH, root)] == [f"{images}/a", "more/b"]
    assert [one.name for one in inputs_from(DEPTH, root / truth)] == ["a"]


def test_a_video_is_predicted_frame_by_frame(tmp_path):
    path = tmp_path / "drive.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 5, (64, 48))
    for level in (0, 100, 200):
        writer.write(np.full((48, 64, 3), level, np.uint8))
    writer.release()
    ramp = Ramp()
    predict(ramp, path, tmp_path / "out", write=["color"])
    assert len(list((tmp_path / "out").glob("*.color.png"))) == 3
    assert len(ramp.seen) == 3


def test_a_camera_that_is_not_there_is_one_line(tmp_path):
    with pytest.raises(dd.UserError, match="cannot open camera 97"):
        predict(Ramp(), 97, tmp_path)
    assert not list(tmp_path.iterdir())


def test_points_without_a_camera_are_refused(tmp_path):
    with pytest.raises(dd.UserError, match="ply needs a calibration"):
        predict(Ramp(), [picture(tmp_path / "a.png")], tmp_path / "out", write=["ply"])


def test_the_frames_that_ship_are_evaluated_as_samples():
    rows = dd.evaluate({"ramp": Ramp()}, "samples", protocol="images+aligned").rows
    assert rows[0]["images"] == 5
    assert 0 < rows[0]["abs_rel"] < 0.5


def test_images_of_one_name_are_refused_where_one_would_get_the_outputs_of_the_other(tmp_path):
    for name in ("b.png", "a.png", "a.jpg"):
        cv2.imwrite(str(tmp_path / name), np.full((8, 12, 3), 100, np.uint8))
    network = Ramp()
    with pytest.raises(dd.UserError, match=r"a\.jpg and .*a\.png would both become .*a\.npy; rename one"):
        predict(network, tmp_path, tmp_path / "out", write=["npy"])
    assert not network.seen
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_a_pixel_that_is_no_number_does_not_spoil_the_alignment(broken):
    truth = {"depth": torch.rand(2, 1, 4, 5) + 1, "depth_valid": torch.ones(2, 1, 4, 5, dtype=torch.bool)}
    depth = 2 * truth["depth"] + 3
    depth[0, 0, 0, 0] = broken
    aligned = scale_and_shift({"depth": depth}, truth)["depth"]
    assert not aligned[0, 0, 0, 0].isfinite()
    aligned[0, 0, 0, 0] = truth["depth"][0, 0, 0, 0]
    torch.testing.assert_close(aligned, truth["depth"])


@pytest.mark.parametrize("count", [1, 2, 5, 6])
def test_medians_are_those_of_numpy(count):
    rng = np.random.default_rng(count)
    depth, truth = (torch.from_numpy(rng.uniform(1, 9, (1, 1, 1, count)).astype(np.float32)) for _ in "ab")
    scaled = median_scaling(
        {"depth": depth}, {"depth": truth, "depth_valid": torch.ones(1, 1, 1, count, dtype=torch.bool)}
    )
    expected = depth * (np.median(truth) / np.median(depth))
    torch.testing.assert_close(scaled["depth"], expected)


def test_a_photograph_is_seen_upright_and_placed_by_the_calibration_of_its_camera(tmp_path):
    image = Image.fromarray(np.zeros((40, 60, 3), np.uint8))
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(tmp_path / "photo.jpg", exif=exif)
    (tmp_path / "camera.yml").write_text(
        "%YAML:1.0\n---\nimage_width: 40\nimage_height: 60\ncamera_matrix: !!opencv-matrix\n"
        "   rows: 3\n   cols: 3\n   dt: d\n   data: [50., 0., 20., 0., 50., 30., 0., 0., 1.]\n"
    )
    kinds = {"write": ["npy", "ply"], "calibration": tmp_path / "camera.yml"}
    found = predict(Ramp(), tmp_path / "photo.jpg", tmp_path / "out", **kinds)
    assert np.load(found.written[0]).shape == (60, 40)
    assert b"element vertex 2400\n" in found.written[1].read_bytes()[:400]
