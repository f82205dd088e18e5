"""How images reach a network: as its authors prepared them, at its scale, and back."""

import pytest
import torch
import torch.nn.functional as F

import densedistill as dd
from densedistill.networks.restore import restore_output
from densedistill.tasks import get_task

CITYSCAPES = (104.00698793, 116.66876762, 122.67891434), (1, 1, 1)
CAMVID = (73.18188461, 82.93553322, 72.41519599), (45.3199, 46.1528, 44.9148)
COCO = (102.9801, 115.9465, 122.7717), (1, 1, 1)
PUBLISHED = {
    "pspnet_r18": (*CITYSCAPES, 1),
    "resnet18_cvpr19": (*CITYSCAPES, 1),
    "espnet": (*CAMVID, 1),
    "espnet_c": (*CAMVID, 1),
    "espnet_upstream": (*CAMVID, 255),
    "espnet_upstream_city": (*CAMVID, 255),
    "espnet_c_upstream": (*CAMVID, 255),
    "fcos_mnv2_c128": (*COCO, 1),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_networks_see_blue_before_red_with_their_authors_means_and_deviations(name):
    mean, deviation, divisor = PUBLISHED[name]
    with torch.device("meta"):
        spec = dd.create_model(name).input_spec
    image = torch.randint(0, 256, (1, 3, 64, 96), dtype=torch.uint8)
    (prepared,), _ = spec.prepare(image)
    red, green, blue = image[0].float()
    for seen, levels, m, d in zip(prepared[0], (blue, green, red), mean, deviation, strict=True):
        torch.testing.assert_close(seen, (levels - m) / d / divisor, rtol=1e-4, atol=1e-4)


def test_timms_encoders_see_images_as_they_were_trained_on_them():
    with torch.device("meta"):
        spec = dd.create_model("timm_pyramid", encoder="tf_efficientnet_lite0").input_spec
    assert spec.mean == spec.std == (0.5, 0.5, 0.5)


@pytest.mark.parametrize("antialias", [False, True])
def test_an_image_is_filtered_before_it_is_seen_smaller_unless_that_is_unwanted(antialias):
    spec, image = dd.InputSpec(scale=0.25, multiple=1, antialias=antialias), torch.rand(1, 3, 16, 24)
    (prepared,), _ = spec.prepare(image)
    expected = F.interpolate(spec.normalise(image), (4, 6), mode="bilinear", antialias=antialias)
    torch.testing.assert_close(prepared, expected)


def test_a_scale_is_a_factor_on_that_of_the_network_and_on_its_shorter_side():
    assert dd.InputSpec(scale=0.5, multiple=8).scaled(3) == dd.InputSpec(scale=1.5, multiple=8)
    assert dd.create_model("depth_slim", scale=0.5).input_spec.place(480, 640).scaled_size == (48, 64)
    tsnnet = dd.create_model("tsnnet_naive", scale=1.5).input_spec
    assert (tsnnet.scale, tsnnet.multiple) == (1.5, 32)


def test_a_dilated_encoder_of_timm_has_the_stride_that_is_asked_for():
    for stride in (8, 32):
        network = dd.create_model("timm_pyramid", stride=stride).eval()
        with dd.Taps(network, ["features.encoder"]) as taps, torch.no_grad():
            network(torch.rand(1, 3, 64, 96))
            assert taps["features.encoder"][0].shape[-2:] == (64 // stride, 96 // stride)


@pytest.mark.parametrize(("key", "factors"), [("flow", [2, 1.5]), ("disparity", [2])])
def test_pixels_along_and_across_come_back_by_what_width_and_height_became(key, factors):
    spec = dd.InputSpec(scale=0.5, multiple=1)
    placement = spec.place(3, 40)
    assert placement.scaled_size == (2, 20)
    seen = torch.ones(1, len(factors), 2, 20)
    restored = restore_output(get_task("sceneflow"), key, seen, spec, placement)
    assert restored.shape == (1, len(factors), 3, 40)
    assert restored.mean((0, 2, 3)).tolist() == factors
