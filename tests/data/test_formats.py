import io
import struct

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from densedistill import UserError
from densedistill.data import formats
from densedistill.data.datasets._base import SAMPLES

sizes = st.tuples(st.integers(1, 9), st.integers(1, 9))


def some_map(size=(3, 5), seed=0):
    return np.random.default_rng(seed).uniform(0.5, 200, size).astype(np.float32)


# PFM


@given(size=sizes, colour=st.booleans())
@settings(max_examples=20, deadline=None)
def test_pfm_comes_back_as_written(tmp_path_factory, size, colour):
    path = tmp_path_factory.mktemp("pfm") / "map.pfm"
    values = some_map((*size, 3) if colour else size)
    formats.write_pfm(path, values)
    np.testing.assert_array_equal(formats.read_pfm(path), values)


def test_pfm_written_here_is_read_alike_by_opencv(tmp_path):
    values = some_map()
    formats.write_pfm(tmp_path / "map.pfm", values)
    np.testing.assert_array_equal(cv2.imread(str(tmp_path / "map.pfm"), cv2.IMREAD_UNCHANGED), values)


def test_pfm_rows_lie_bottom_up_in_the_file(tmp_path):
    (tmp_path / "map.pfm").write_bytes(b"Pf\n2 2\n-1\n" + struct.pack("<4f", 3, 4, 1, 2))
    np.testing.assert_array_equal(formats.read_pfm(tmp_path / "map.pfm"), [[1, 2], [3, 4]])


@pytest.mark.parametrize(
    "header",
    [
        b"Pf\n2 1\n-1\n",
        b"Pf \n2 1 \n-1.0\n",
        b"Pf\r\n2 1\r\n-1.000000\r\n",
        b"Pf\n2\n1\n-1e0\n",
        b"Pf\n2 1\n-0.003922\n",
    ],
)
def test_pfm_headers_of_all_benchmarks_are_read_and_the_scale_is_no_factor(tmp_path, header):
    (tmp_path / "map.pfm").write_bytes(header + struct.pack("<2f", 1.5, 2.5))
    np.testing.assert_array_equal(formats.read_pfm(tmp_path / "map.pfm"), [[1.5, 2.5]])


def test_pfm_of_positive_scale_is_big_endian(tmp_path):
    (tmp_path / "map.pfm").write_bytes(b"Pf\n2 1\n1.0\n" + struct.pack(">2f", 1.5, 2.5))
    np.testing.assert_array_equal(formats.read_pfm(tmp_path / "map.pfm"), [[1.5, 2.5]])


def test_middlebury_pfm_is_in_pixels_where_opencv_is_255_times_too_large():
    path = SAMPLES / "middlebury2014" / "Motorcycle" / "disp0GT.pfm"
    ours, theirs = formats.read_pfm(path), cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    known = np.isfinite(ours)
    assert ours[known].max() == pytest.approx(62.9, abs=0.05)
    np.testing.assert_allclose(theirs[known] / ours[known], 1 / 0.003922, rtol=1e-5)


def test_a_pfm_of_two_channels_cannot_be_written(tmp_path):
    with pytest.raises(UserError, match="PFM"):
        formats.write_pfm(tmp_path / "map.pfm", np.zeros((2, 2, 2)))
    assert not (tmp_path / "map.pfm").exists()


# Disparity


@given(size=sizes, seed=st.integers(0, 99))
@settings(max_examples=20, deadline=None)
def test_disparity_png_comes_back_to_half_a_step_and_unknown_as_zero(tmp_path_factory, size, seed):
    path = tmp_path_factory.mktemp("png") / "map.png"
    values = some_map(size, seed)
    valid = values > 50
    formats.write_disparity_png(path, values, valid)
    back = formats.read_disparity_png(path)
    np.testing.assert_array_equal(back > 0, valid)
    np.testing.assert_allclose(back[valid], values[valid], atol=1 / 512 + 1e-6)


def test_disparity_png_is_what_kitti_says(tmp_path):
    formats.write_disparity_png(
        tmp_path / "map.png", np.array([[1.0, 0.001, 255.99, 7.0]]), np.array([[1, 1, 1, 0]], bool)
    )
    stored = np.asarray(Image.open(tmp_path / "map.png"))
    np.testing.assert_array_equal(stored, [[256, 1, 65533, 0]])


def test_disparity_beyond_kitti_png_is_refused_and_nothing_written(tmp_path):
    for value in (256.0, np.inf, np.nan):
        with pytest.raises(UserError, match=r"at most 255.99 px"):
            formats.write_disparity_png(tmp_path / "map.png", np.array([[1.0, value]]))
    assert not list(tmp_path.iterdir())
    formats.write_disparity_png(tmp_path / "map.png", np.array([[1.0, np.inf]]), np.array([[True, False]]))


def test_depth_png_holds_what_is_known_and_what_is_too_far_as_its_largest_value(tmp_path):
    depth = np.array([[0, -1, np.nan, np.inf, 1e-6, 2.5, 1e6]])
    formats.write_depth_png(tmp_path / "map.png", depth, 256.0)
    stored = np.asarray(Image.open(tmp_path / "map.png"))
    np.testing.assert_array_equal(stored, [[0, 0, 0, 0, 1, 640, 65535]])


def test_read_disparity_goes_by_the_suffix(tmp_path):
    values = np.array([[1.5, 2.0], [3.25, 4.0]], np.float32)
    formats.write_pfm(tmp_path / "a.pfm", values)
    formats.write_npy(tmp_path / "a.npy", values[None].astype(np.float64))
    formats.write_disparity_png(tmp_path / "a.png", values)
    formats.write_npy(tmp_path / "last.npy", values[..., None])
    for name in ("a.pfm", "a.npy", "last.npy", "a.png"):
        read = formats.read_disparity(tmp_path / name)
        assert read.dtype == np.float32
        np.testing.assert_array_equal(read, values)
    np.testing.assert_array_equal(formats.read_disparity(tmp_path / "a.pfm", scale=0.5), values * 2)
    with pytest.raises(UserError, match="PFM, NPY or PNG"):
        formats.read_disparity(tmp_path / "a.exr")


def test_pickles_are_not_read(tmp_path):
    np.save(tmp_path / "a.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(UserError, match="NPY file of numbers"):
        formats.read_disparity(tmp_path / "a.npy")


def test_a_disparity_map_has_one_channel(tmp_path):
    formats.write_pfm(tmp_path / "a.pfm", np.zeros((2, 2, 3)))
    with pytest.raises(UserError, match=r"a disparity map is \(H, W\)"):
        formats.read_disparity(tmp_path / "a.pfm")


# Images


def saved(path, image):
    image.save(path)
    return path


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA", "P", "1"])
def test_images_of_every_mode_become_rgb(tmp_path, mode):
    pixels = np.random.default_rng(0).integers(0, 256, (6, 7, 3), dtype=np.uint8)
    image = Image.fromarray(pixels).convert(mode)
    read = formats.read_image(saved(tmp_path / "a.png", image))
    assert read.dtype == np.uint8
    np.testing.assert_array_equal(read, np.asarray(image.convert("RGB")))


def test_16_bit_images_become_8_bit(tmp_path):
    grey = np.array([[0, 257, 65535]], np.uint16)
    formats.write_image(tmp_path / "grey.png", grey)
    np.testing.assert_array_equal(formats.read_image(tmp_path / "grey.png"), [[[0] * 3, [1] * 3, [255] * 3]])
    formats.write_image(tmp_path / "colour.png", np.array([[[65535, 257, 0]]], np.uint16))
    np.testing.assert_array_equal(formats.read_image(tmp_path / "colour.png"), [[[255, 1, 0]]])


@pytest.mark.parametrize("bits", [10, 12, 14, 16])
def test_views_of_fewer_bits_in_16_bit_files_are_scaled_alike(tmp_path, bits):
    white = 2**bits - 1
    formats.write_image(tmp_path / "left.png", np.array([[0, white]], np.uint16))
    formats.write_image(tmp_path / "right.png", np.array([[0, white // 4]], np.uint16))
    left, right = formats.read_images(tmp_path / "left.png", tmp_path / "right.png")
    assert (left.max(), right.max()) == (255, 64)
    if bits < 16:  # one more than white is of the next depth
        formats.write_image(tmp_path / "left.png", np.array([[0, white + 1]], np.uint16))
        assert formats.read_image(tmp_path / "left.png").max() == 64
    opaque = np.array([[[white, white // 4, 0, 65535]]], np.uint16)
    cv2.imwrite(str(tmp_path / "left.png"), opaque)
    assert formats.read_image(tmp_path / "left.png").tolist() == [[[0, 64, 255]]], "alpha is no brightness"


def test_jpeg_is_read_as_pillow_reads_it(tmp_path):
    cones = SAMPLES / "middlebury2003" / "cones" / "im2.png"
    path = saved(tmp_path / "a.jpg", Image.open(cones))
    difference = formats.read_image(path).astype(int) - np.asarray(Image.open(path).convert("RGB"))
    assert np.abs(difference).mean() < 1


def test_orientation_marks_do_not_turn_a_rectified_image(tmp_path):
    image = Image.fromarray(np.zeros((4, 8, 3), np.uint8))
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(tmp_path / "a.jpg", exif=exif)
    assert formats.read_image(tmp_path / "a.jpg").shape == (4, 8, 3)


@pytest.mark.parametrize("kind", ["png", "jpg", "webp", "tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photograph_is_turned_as_pillow_turns_it(tmp_path, kind, orientation):
    noise = np.random.default_rng(0).integers(0, 255, (4, 6, 3), np.uint8).repeat(8, 0).repeat(8, 1)
    image = Image.fromarray(noise)
    exif = image.getexif()
    exif[0x0112] = orientation
    image.save(tmp_path / f"a.{kind}", exif=exif, quality=95)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(tmp_path / f"a.{kind}").convert("RGB")))
    found = formats.upright(tmp_path / f"a.{kind}", formats.read_image(tmp_path / f"a.{kind}"))
    assert found.shape == expected.shape
    assert np.abs(found.astype(int) - expected).mean() < 3  # decoders round


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
def test_a_cut_off_image_is_named(tmp_path, kind, share, capfd):
    stream = io.BytesIO()
    Image.open(SAMPLES / "middlebury2003" / "cones" / "im2.png").save(stream, kind)
    (tmp_path / "a.img").write_bytes(stream.getvalue()[: int(len(stream.getvalue()) * share)])
    with pytest.raises(UserError, match=r"a\.img is cut off"):
        formats.read_image(tmp_path / "a.img")
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("kind", ["BMP", "TIFF", "PPM"])
def test_of_a_cut_off_image_opencv_says_nothing_of_its_own(tmp_path, kind, capfd):
    stream = io.BytesIO()
    Image.new("RGB", (64, 48)).save(stream, kind)
    (tmp_path / "a.img").write_bytes(stream.getvalue()[:4000])
    with pytest.raises(UserError, match=r"a\.img is not an image, or not a whole one"):
        formats.read_image(tmp_path / "a.img")
    assert capfd.readouterr().err == ""


@given(at=st.floats(0.01, 0.99))
@settings(max_examples=25, deadline=None)
def test_a_png_with_one_changed_byte_is_never_taken_for_whole(tmp_path_factory, at):
    data = bytearray((SAMPLES / "middlebury2003" / "cones" / "disp2.png").read_bytes())
    data[int(len(data) * at)] ^= 0x10
    path = tmp_path_factory.mktemp("png") / "a.png"
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"a\.png is (damaged|cut off)"):
        formats.read_image(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "No such file"), (b"", "is empty"), (b"hello", "is not an image")],
)
def test_what_is_no_image_is_named(tmp_path, content, message):
    if content is not None:
        (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(UserError, match=rf"a\.png.*{message}"):
        formats.read_image(tmp_path / "a.png")


@pytest.mark.parametrize("white", [1, 100, 255, 1000, 4095])
@pytest.mark.parametrize("kind", ["P5", "P6"])
def test_what_ppm_and_pgm_call_white_is_white(kind, white, tmp_path):
    levels = np.linspace(0, white // 2, 36).astype(">u2" if white > 255 else "u1").reshape(3, 4, 3)
    stored = levels if kind == "P6" else levels[..., 0]
    path = tmp_path / ("a.ppm" if kind == "P6" else "a.pgm")
    path.write_bytes(f"{kind} # made by hand\n4 3\n# no brighter than\n{white}\n".encode() + stored.tobytes())
    expected = levels if kind == "P6" else levels[..., :1].repeat(3, -1)
    np.testing.assert_allclose(formats.read_image(path), expected * (255 / white), atol=0.51)
    np.testing.assert_array_equal(formats.read_raster(path), stored)  # masks are numbers and have no white


def test_a_pgm_of_16_bits_that_hold_fewer_is_scaled_as_other_files_are(tmp_path):
    cv2.imwrite(str(tmp_path / "a.pgm"), np.array([[0, 4095]], np.uint16))
    assert formats.read_image(tmp_path / "a.pgm").max() == 255


@pytest.mark.parametrize("kind", [np.float64, np.int16])
def test_colours_of_a_depth_that_opencv_does_not_convert_are_refused(kind, tmp_path):
    cv2.imwrite(str(tmp_path / "a.tif"), np.ones((3, 4, 3), kind))
    with pytest.raises(UserError, match=f"holds {np.dtype(kind)} values"):
        formats.read_image(tmp_path / "a.tif")


def test_float_images_are_refused(tmp_path):
    cv2.imwrite(str(tmp_path / "a.tiff"), np.zeros((2, 2), np.float32))
    with pytest.raises(UserError, match="float32 values; images of 8 or 16 bits"):
        formats.read_image(tmp_path / "a.tiff")


def test_an_unknown_image_format_cannot_be_written(tmp_path):
    with pytest.raises(UserError, match="no image format is called"):
        formats.write_image(tmp_path / "a.abc", np.zeros((2, 2), np.uint8))


# Flow


@given(size=sizes, seed=st.integers(0, 99))
@settings(max_examples=20, deadline=None)
def test_flow_comes_back_from_flo_exactly_and_from_png_to_half_a_step(tmp_path_factory, size, seed):
    folder = tmp_path_factory.mktemp("flow")
    flow = some_map((*size, 2), seed) - 100
    valid = flow[..., 0] > -50
    formats.write_flo(folder / "a.flo", flow)
    np.testing.assert_array_equal(formats.read_flo(folder / "a.flo"), flow)
    formats.write_flow_png(folder / "a.png", flow, valid)
    back, known = formats.read_flow_png(folder / "a.png")
    np.testing.assert_array_equal(known, valid)
    np.testing.assert_allclose(back[valid], flow[valid], atol=1 / 128 + 1e-5)
    assert (back[~valid] == 0).all()


def test_flo_written_here_is_read_alike_by_opencv(tmp_path):
    flow = some_map((3, 5, 2))
    formats.write_flo(tmp_path / "a.flo", flow)
    np.testing.assert_array_equal(cv2.readOpticalFlow(str(tmp_path / "a.flo")), flow)


def test_a_flow_file_cut_off_or_of_another_kind_is_named(tmp_path):
    formats.write_flo(tmp_path / "a.flo", some_map((3, 5, 2)))
    whole = (tmp_path / "a.flo").read_bytes()
    negative = whole[:4] + np.array([-5, -3], "<i4").tobytes() + whole[12:]
    for content, message in (
        (whole[:-4], "it needs 120"),
        (b"x" * 132, "not a .flo file"),
        (negative, "a -5x-3 flow"),
    ):
        (tmp_path / "a.flo").write_bytes(content)
        with pytest.raises(UserError, match=message):
            formats.read_flo(tmp_path / "a.flo")
    formats.write_image(tmp_path / "a.png", np.zeros((2, 2), np.uint16))
    with pytest.raises(UserError, match="16-bit colour PNG"):
        formats.read_flow_png(tmp_path / "a.png")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_flow_that_is_no_number_is_refused_where_it_counts(value, tmp_path):
    flow = some_map((2, 3, 2))
    flow[0, 1, 0] = value
    with pytest.raises(UserError, match="some of the flow is no number"):
        formats.write_flow_png(tmp_path / "a.png", flow)
    assert not (tmp_path / "a.png").exists()
    valid = np.isfinite(flow).all(-1)
    formats.write_flow_png(tmp_path / "a.png", flow, valid)
    np.testing.assert_array_equal(formats.read_flow_png(tmp_path / "a.png")[1], valid)


def test_flow_beyond_the_png_is_written_as_its_ends(tmp_path):
    formats.write_flow_png(tmp_path / "a.png", np.array([[[600.0, -600.0], [511.98, -512.0]]]))
    assert formats.read_flow_png(tmp_path / "a.png")[0].tolist() == [[[511.984375, -512.0]] * 2]


@pytest.mark.parametrize("header", [b"1 1\n-", b"1 1\n1e", b"1 1\n.", b"1 1\n0", b"9" * 5000 + b" 1\n-1"])
def test_a_pfm_whose_header_says_no_size_or_no_order_of_bytes_is_named(header, tmp_path):
    (tmp_path / "a.pfm").write_bytes(b"Pf\n" + header + b"\n" + bytes(4))
    with pytest.raises(UserError, match="is not a PFM file"):
        formats.read_pfm(tmp_path / "a.pfm")


@pytest.mark.parametrize(
    "damage", [lambda data: b"PK\x03\x04 and no more", lambda data: data.replace(b"}", b" ")]
)
def test_a_damaged_npy_is_named(damage, tmp_path):
    formats.write_npy(tmp_path / "a.npy", np.ones((2, 3), np.float32))
    (tmp_path / "a.npy").write_bytes(damage((tmp_path / "a.npy").read_bytes()))
    with pytest.raises(UserError, match="no whole NPY file"):
        formats.read_disparity(tmp_path / "a.npy")
