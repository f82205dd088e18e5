"""Parameters and MACs against Tables III and V of the DSNet paper, and against the published networks."""

import pytest
import torch
from torch import nn

import densedistill as dd
from densedistill.networks.counting import count, count_model

# name: published parameters, GMACs by the paper's rule and truly at 256x512, truly at 512x960 and 384x1248
TABLE = {
    "gwcnet_g": (6_518_560, 246.268, 160.015, 600.055, 585.054),
    "dsnet_bb21_ed3_n32": (4_430_496, 211.122, 124.984, 468.690, 456.973),
    "dsnet_bb18_ed3_n32": (4_263_968, 207.477, 121.360, 455.100, 443.723),
    "dsnet_bb14_ed3_n32": (4_121_248, 200.844, 114.716, 430.186, 419.432),
    "dsnet_bb21_ed2_n32": (3_289_728, 165.586, 108.073, 405.272, 395.140),
    "dsnet_bb21_ed1_n32": (2_148_960, 120.050, 91.161, 341.854, 333.308),
    "dsnet_bb21_ed2_n24": (2_248_856, 108.668, 76.203, 285.762, 278.618),
    "dsnet_bb21_ed2_n16": (1_545_568, 67.189, 52.639, 197.394, 192.460),
    "dsnet_bb21_ed2_n8": (1_052_232, 41.150, 37.379, 140.170, 136.665),
    "dsnet_bb21_ed2_n16_attention": (1_856_256, 91.329, 69.550, 260.812, 254.292),
    "acvnet_small": (6_230_944, 240.052, 175.189, 656.960, 640.600),
    "acvnet": (7_173_488, 297.809, 211.448, 792.932, 773.194),
    "gwcnet_gc": (6_909_728, 260.493, 174.233, 653.376, 637.041),
}


@pytest.mark.parametrize("name", TABLE)
def test_counts_equal_the_papers_tables(name):
    parameters, paper, true, *_ = TABLE[name]
    counts = count_model(name)
    assert counts.size == (256, 512)
    assert counts.parameters_paper == parameters
    assert counts.macs_paper / 1e9 == pytest.approx(paper, abs=6e-4)
    assert counts.macs / 1e9 == pytest.approx(true, abs=6e-4)


@pytest.mark.parametrize("name", ["dsnet_bb21_ed2_n16", "acvnet"])
def test_true_macs_at_the_sizes_of_evaluation(name):
    for size, true in zip(((512, 960), (384, 1248)), TABLE[name][3:], strict=True):
        assert count_model(name, size).macs / 1e9 == pytest.approx(true, abs=6e-4)


@pytest.mark.full
@pytest.mark.parametrize("name", TABLE)
def test_true_macs_of_every_network_at_the_sizes_of_evaluation(name):
    test_true_macs_at_the_sizes_of_evaluation(name)


def test_lacgwcnet():
    counts = count_model("lacgwcnet")
    assert counts.parameters == 9_429_798
    assert counts.macs_paper / 1e9 == pytest.approx(288.97, abs=6e-3)
    assert counts.macs / 1e9 == pytest.approx(202.56, abs=6e-3)


def test_published_parts_that_reach_no_output_count_by_the_papers_rule_only():
    counts, same = count_model("acvnet_dsnet_teacher"), count_model("acvnet_small")
    assert (counts.parameters, counts.macs) == (same.parameters, same.macs)
    assert counts.parameters_paper == 6_603_936
    assert counts.macs_paper / 1e9 == pytest.approx(246.166, abs=6e-4)
    assert count_model("dsnet_bb21_ed2_n16").parameters == 1_503_024
    assert count_model("dsnet_bb21_ed2_n16_attention").parameters == 1_813_712


def test_table_five_leaves_out_the_training_heads_of_gwcnet():
    network = dd.create_model("gwcnet_g")
    heads = sum(p.numel() for head in network.aggregation.heads[:-1] for p in head.parameters())
    assert sum(p.numel() for p in network.parameters()) - heads == 6_432_832


def test_counting_leaves_the_network_as_it_was():
    network = dd.create_model("dsnet_slim", max_disparity=64)
    network.aggregation.eval()
    modes = [module.training for module in network.modules()]
    state = {key: value.clone() for key, value in network.state_dict().items()}
    count(network, (32, 64))
    assert modes == [module.training for module in network.modules()]
    assert all(torch.equal(value, state[key]) for key, value in network.state_dict().items())
    assert not any(module._forward_hooks for module in network.modules())


def test_sizes_that_do_not_fit_are_counted_padded():
    assert count_model("dsnet_slim", (250, 500)).macs == count_model("dsnet_slim", (256, 512)).macs


class Known(nn.Module):
    """One layer of each kind, whose counts are known by hand."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 4, 3, padding=1, groups=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.ConvTranspose2d(4, 2, 2, 2),
        )
        self.norm, self.linear = nn.BatchNorm2d(2), nn.Linear(2, 5)

    def forward(self, left, right):
        return self.linear(self.norm(self.layers(left)).mean((2, 3)))


def test_each_kind_of_layer_counts_as_stated():
    pixels = 16 * 32
    counts = count(Known(), (16, 32))
    convolution = pixels * 4 * (27 + 1)
    assert counts.macs == convolution + (pixels // 4) * 4 * 2 * 4 + pixels * 2 + 5 * (2 + 1)
    transposed_by_paper = pixels * 2 * (4 * 4 + 1)
    others = pixels * 4 + pixels * 4 + 2 * pixels * 2
    assert counts.macs_paper == convolution + transposed_by_paper + others + 5 * (2 + 1)


@pytest.mark.parametrize("name", ["coex_slim", "dwarf_slim", "spatialkd_mobilenetv2", "tsnnet_naive"])
def test_a_registered_network_costs_what_it_costs_as_an_object(name):
    assert count_model(name, (128, 256)) == count(dd.create_model(name, weights=None), (128, 256))
