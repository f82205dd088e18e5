"""`evaluate`: what the protocols count, how they average, and what is printed and written."""

import argparse
import json

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import nn

import densedistill as dd
from densedistill.cli import evaluate as verb
from densedistill.data import formats
from densedistill.errors import UserError
from densedistill.inference import SGBM
from densedistill.inference.evaluate import Evaluation, evaluate
from densedistill.inference.evaluation import table_of
from densedistill.networks import InputSpec


def sample(value, size=(4, 10), valid=1.0, name="one", **more):
    """A sample of one disparity everywhere; the first `valid` share of the columns has ground truth."""
    target = torch.full((1, *size), float(value))
    known = torch.zeros(1, *size, dtype=torch.bool)
    known[..., : round(size[1] * valid)] = True
    image = torch.zeros(3, *size, dtype=torch.uint8)
    return {
        "left": image,
        "right": image,
        "disparity": target * known,
        "disparity_valid": known,
        "meta": {"name": name, "size": size},
        **more,
    }


def test_plain_pools_over_pixels_and_per_image_over_images(constant):
    data = [sample(10, size=(4, 10)), sample(13, size=(4, 30), valid=0.5)]
    row = evaluate(constant(10), data).rows[0]
    assert row["epe"] == pytest.approx(3 * 60 / 100)
    assert row["bad2"] == pytest.approx(0.6)
    assert row["bad3"] == row["d1"] == 0
    row = evaluate(constant(10), data, per_image=True).rows[0]
    assert row["epe"] == pytest.approx(1.5)
    assert row["bad2"] == pytest.approx(0.5)


def test_non_occluded_pixels_are_counted_apart(constant):
    seen = torch.zeros(1, 4, 10, dtype=torch.bool)
    seen[..., 5:] = True
    target = torch.full((1, 4, 10), 10.0)
    target[..., :5] = 20
    given = sample(10, disparity=target, disparity_nonoccluded=seen)
    row = evaluate(constant(10), [given]).rows[0]
    assert row["epe"] == 5
    assert row["epe_noc"] == 0
    assert "epe_noc" not in evaluate(constant(10), [sample(10)]).rows[0]


def test_kitti_2015_tells_background_from_vehicles(constant):
    objects = torch.zeros(4, 10, dtype=torch.int64)
    objects[:, :2] = 3
    target = torch.full((1, 4, 10), 10.0)
    target[..., :2] = 30
    row = evaluate(constant(10), [sample(10, disparity=target, objects=objects)], "kitti2015").rows[0]
    assert (row["d1"], row["d1_bg"], row["d1_fg"]) == pytest.approx((0.2, 0, 1))


def test_the_limit_leaves_out_ground_truth_at_or_beyond_it(constant):
    data = [sample(191.5), sample(192), sample(250)]
    assert evaluate(constant(191.5), data).rows[0]["epe"] > 15
    assert evaluate(constant(191.5), data, max_disparity=192).rows[0]["epe"] == 0
    assert evaluate("sgbm", [sample(0.25)], max_disparity=0.5).max_disparity == 0.5  # searches 1 px or more


def test_sceneflow_cuts_the_bottom_right(constant):
    given = sample(10, size=(540, 960))
    given["disparity"][:, :28] = 300
    seen = []

    class Spy(constant):
        def __call__(self, left, right):
            seen.append(tuple(left.shape))
            return super().__call__(left, right)

    row = evaluate(Spy(10), [given], "sceneflow").rows[0]
    assert seen == [(3, 512, 960)]
    assert row["epe"] == 0


def test_dsnet_averages_as_published(constant):
    mostly_beyond = sample(300, size=(4, 100))
    mostly_beyond["disparity"][..., :5] = 20
    data = [sample(12), mostly_beyond]
    found = evaluate(constant(10), data, "dsnet")
    assert found.rows[0]["epe"] == pytest.approx((2 + 0) / 2)
    assert "published" in found.caption


def test_dsnet_pads_kitti_as_published():
    class Spy(nn.Module):
        input_spec = InputSpec(multiple=16)

        def forward(self, left, right):
            self.seen = left
            return {"disparity": left[:, :1] * 0 + 10}

    net = Spy()
    given = sample(10, size=(370, 1226))
    assert evaluate(net, [given], "dsnet").rows[0]["epe"] == 0
    assert net.seen.shape[-2:] == (384, 1248)
    assert not net.seen[..., :14, :].any()
    assert not net.seen[..., 1226:].any()
    assert net.seen[..., 14:, :1226].all()
    evaluate(net, [given], "kitti2015")
    assert net.seen.shape[-2:] == (384, 1232)
    for size in ((352, 1226), (370, 1216), (360, 1264)):
        evaluate(net, [sample(10, size=size)], "dsnet")
        assert net.seen.shape[-2:] == (size[0] + -size[0] % 16, size[1] + -size[1] % 16), "no size of KITTI's"


def test_dsnet_cuts_driving_images_to_the_columns_that_were_published(constant):
    given = sample(10, size=(400, 881))
    given["disparity"][..., :3] = 100
    assert evaluate(constant(10), [given], "dsnet").rows[0]["epe"] == 0


def test_hard_scenes_count_half_in_a_mean_over_images_alone(constant):
    data = [sample(10), sample(16, name="trainingH/Shelves")]
    assert evaluate(constant(10), data, "middlebury").rows[0]["avgerr"] == pytest.approx((0 + 0.5 * 6) / 1.5)
    pooled = evaluate(constant(10), data, "middlebury", per_image=False).rows[0]
    assert pooled["avgerr"] == pytest.approx(3)


@pytest.mark.parametrize("protocol", ["middlebury", "eth3d"])
def test_an_image_with_a_prediction_that_is_no_number_is_not_left_out_of_a_mean(protocol):
    def predict(left, right):
        lost = left.max() == 255
        return {"disparity": torch.full((1, 1, *left.shape[-2:]), torch.nan if lost else 10.0)}

    data = [sample(12), sample(10, name="Shelves"), sample(10, name="Vintage")]
    data[1]["left"] = torch.full_like(data[1]["left"], 255)
    for one, seen in zip(data, (True, True, False), strict=True):  # in both views
        one["disparity_nonoccluded"] = torch.full_like(one["disparity_valid"], seen)
    row = evaluate(predict, data, protocol).rows[0]
    assert "avgerr" not in row
    assert "avgerr_noc" not in row
    assert evaluate(predict, data[::2], protocol).rows[0]["avgerr_noc"] == 2


def test_a_disparity_without_end_is_not_cut_to_the_scenes_range(constant):
    given = sample(63)
    given["meta"]["ndisp"] = 64
    assert evaluate(constant(200), [given], "middlebury").rows[0]["bad2"] == 0
    assert evaluate(constant(float("inf")), [given], "middlebury").rows[0]["bad2"] == 1


def test_kitti_2012_middlebury_and_eth3d_average_over_images(constant):
    data = [sample(10, size=(4, 10)), sample(16, size=(4, 30))]
    for protocol, error in (("kitti2012", "epe"), ("middlebury", "avgerr"), ("eth3d", "avgerr")):
        assert evaluate(constant(10), data, protocol).rows[0][error] == pytest.approx(3)


def test_several_networks_stand_in_one_table_and_equal_names_are_told_apart(constant):
    data = {"near": [sample(10)], "far": [sample(4)]}
    found = evaluate([constant(10), constant(9), SGBM(16)], data)
    assert [(row["data"], row["name"]) for row in found.rows] == [
        (data, name) for data in ("near", "far") for name in ("shift", "shift #2", "sgbm")
    ]
    assert list(found.table().columns[3].cells)[:2] == ["[bold]0.000[/bold]", "1.000"]
    bracketed = evaluate({"runs/[a]/x": constant(9), "[/b]": constant(9)}, {"[c]": [sample(10)]})
    assert all(name in str(bracketed) for name in ("runs/[a]/x", "[/b]", "[c] (1)"))
    text = str(found)
    assert sum(line.split()[:3] == ["shift", "#2", "near"] for line in text.splitlines()) == 1
    for said in ("Protocol plain", "pooled over pixels", "float32", "16-bit fixed point (sgbm)", "no limit"):
        assert said in " ".join(text.split())


def test_labels_may_be_given(constant):
    assert evaluate({"mine": constant(10)}, [sample(10)]).rows[0]["name"] == "mine"


def test_json_holds_every_figure_of_every_sample(constant, tmp_path):
    found = evaluate(constant(10), [sample(10, name="a"), sample(15, name="b")], metrics=["epe", "bad1.5"])
    written = json.loads(found.write_json(tmp_path / "deep" / "out.json").read_text())
    assert written["rows"][0]["epe"] == 2.5
    assert [(s["sample"], s["epe"], s["bad1.5"]) for s in written["samples"]] == [("a", 0, 0), ("b", 5, 1)]
    assert written["protocol"] == "plain"
    assert written["units"] == {"epe": "px", "bad1.5": "share in [0, 1]"}
    assert str(Evaluation.from_dict(written)) == str(found) == table_of(written)
    assert table_of({"rows": []}) == "nothing was evaluated"


def test_json_has_null_for_what_is_not_finite_and_reads_it_back(constant, tmp_path):
    found = evaluate([constant(float("inf")), constant(10)], [sample(10)], metrics=["epe", "bad1.5"])
    assert found.rows[0]["epe"] == float("inf")
    text = found.write_json(tmp_path / "out.json").read_text()
    written = json.loads(text, parse_constant=pytest.fail)  # Infinity and NaN are no JSON
    assert [row["epe"] for row in written["rows"]] == [None, 0]
    assert str(Evaluation.from_dict(written)) == str(found) == table_of(written)
    assert "inf" in str(found)


def test_images_are_predicted_at_their_own_size_by_a_real_network():
    torch.manual_seed(0)
    net = dd.create_model("dsnet_bb21_ed2_n16", max_disparity=16)
    found = evaluate(net, [sample(5, size=(30, 45)), sample(5, size=(17, 33))])
    assert np.isfinite(found.rows[0]["epe"])
    assert found.rows[0]["name"] == "dsnet_bb21_ed2_n16"
    assert net.training


def test_sgbm_on_the_pairs_that_ship():
    found = evaluate(["sgbm"], "samples", max_disparity=64, metrics=["bad2"])
    figures = {row["data"]: row["bad2"] for row in found.rows}
    assert figures["motorcycle"] < 0.097
    assert figures["cones"] < 0.098


def test_limit_spreads_over_the_set(constant):
    data = [sample(10, name=str(number)) for number in range(10)]
    assert [s["sample"] for s in evaluate(constant(), data, limit=5).samples] == ["0", "2", "4", "6", "8"]


def make_middlebury(folder, disparity):
    image = np.random.default_rng(0).integers(0, 256, (20, 40, 3), dtype=np.uint8)
    folder.mkdir(parents=True)
    for name in ("im0.png", "im1.png"):
        formats.write_image(folder / name, image)
    formats.write_pfm(folder / "disp0GT.pfm", np.full((20, 40), disparity, np.float32))


def test_generalisation_takes_the_data_sets_it_is_given(constant, tmp_path):
    make_middlebury(tmp_path / "middlebury" / "trainingH" / "Adirondack", 13)
    found = evaluate(constant(10), None, "generalisation", root=tmp_path)
    (row,) = found.rows
    assert (row["data"], row["bad2"]) == ("middlebury", 1)
    assert not {"epe", "d1", "bad1"} & row.keys()
    assert found.missing == ["kitti2012", "kitti2015", "eth3d"]
    assert "Not given: kitti2012, kitti2015, eth3d" in found.caption
    data = {"kitti2015": [sample(10)], "eth3d": [sample(13)]}
    rows = evaluate(constant(10), data, "generalisation").rows
    assert [(row["data"], row.get("d1"), row.get("bad1")) for row in rows] == [
        ("kitti2015", 0, None),
        ("eth3d", None, 1),
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"protocol": "kiti2015"}, "no protocol 'kiti2015'; did you mean 'kitti2015'"),
        ({"metrics": ["epr"]}, "no metric 'epr'; did you mean 'epe'"),
        ({"networks": "dsnet_bb21_ed2_n17"}, "no network 'dsnet_bb21_ed2_n17'; did you mean"),
        ({"networks": "gwcnet_g"}, "no weights ship for network 'gwcnet_g'; name a file: gwcnet_g=FILE"),
        ({"networks": "sgbm=x.pth"}, "sgbm has no weights"),
        ({"networks": []}, "no network to evaluate"),
        ({"networks": 3}, "a network is a module, a name"),
        ({"data": "kitti2016"}, "there is no data set 'kitti2016'; "),
        ({"data": "sample"}, "there is no data set 'sample'; did you mean 'samples'"),
        ({"data": None}, "nothing to evaluate on"),
        ({"data": "samples", "split": "test"}, "the samples that ship are one set"),
        ({"data": "samples", "options": {"resolution": "Q"}}, "the samples that ship are one set"),
        ({"max_disparity": 0}, "max_disparity is a number of px above 0, got 0"),
        ({"max_disparity": float("nan")}, "max_disparity is a number of px above 0, got nan"),
        ({"data": 7}, "data is a data set, the name of one or a list"),
        ({"data": []}, "not one sample"),
        ({"data": [sample(1, name="S7", valid=0)]}, "sample 'S7' has not one valid pixel"),
        (
            {"data": [{"left": torch.zeros(3, 4, 4), "meta": {"name": "S8"}}]},
            "sample 'S8' has no 'disparity' to evaluate stereo on; it holds left",
        ),
        (
            {"data": None, "protocol": "generalisation"},
            "needs the root of at least one of kitti2012, kitti2015",
        ),
        ({"data": None, "protocol": "generalisation", "root": {"kitti": "x"}}, "has no data set 'kitti'"),
        ({"max_disparity": -3.5}, "max_disparity is a number of px above 0, got -3.5"),
    ],
)
def test_mistakes_are_named_in_one_line(constant, arguments, message):
    arguments = {"networks": constant(), "data": [sample(1)], **arguments}
    with pytest.raises(UserError, match=message) as refused:
        evaluate(**arguments)
    assert "\n" not in str(refused.value)


@pytest.mark.full  # it compares the file with every network there is
def test_a_checkpoint_of_another_network_is_refused(tmp_path):
    from safetensors.torch import save_file

    save_file({"weight": torch.zeros(3)}, tmp_path / "other.safetensors")
    with pytest.raises(UserError, match=r"other.safetensors"):
        evaluate(f"dsnet_bb21_ed2_n16={tmp_path / 'other.safetensors'}", [sample(1)])


def test_of_a_folder_those_pairs_count_that_have_ground_truth(constant, plane, tmp_path):
    for name in "ab":
        for view, image in zip(("left", "right"), plane(), strict=True):
            formats.write_image(tmp_path / view / f"{name}.png", image)
    with pytest.raises(UserError, match="sample 'a' has no 'disparity' to evaluate stereo on"):
        evaluate(constant(), "folder", root=tmp_path)
    formats.write_pfm(tmp_path / "disparity" / "b.pfm", np.full((48, 120), 8, np.float32))
    found = evaluate(constant(8), "folder", root=tmp_path)
    assert [one["sample"] for one in found.samples] == ["b"]
    assert found.rows[0]["epe"] == 0


def test_ground_truth_of_another_size_is_refused(constant):
    given = sample(1)
    given["disparity"] = torch.ones(1, 5, 10)
    given["disparity_valid"] = torch.ones(1, 5, 10, dtype=torch.bool)
    with pytest.raises(UserError, match="the prediction is 10x4 px, the ground truth 10x5"):
        evaluate(constant(), [given])


def run_verb(*arguments):
    parser = argparse.ArgumentParser()
    verb.add_arguments(parser)
    return verb.run(parser.parse_args([str(argument) for argument in arguments]))


def test_the_verb_prints_a_table_and_writes_json(tmp_path, capsys):
    make_middlebury(tmp_path / "set" / "Scene", 1)
    status = run_verb(
        "sgbm", "--data", "middlebury2014", "--root", tmp_path / "set", "--max-disparity", 16,
        "--protocol", "middlebury", "--metrics", "epe,bad2", "--device", "cpu",
        "--json", tmp_path / "out.json",
    )  # fmt: skip
    printed = capsys.readouterr().out
    assert status == 0
    assert "sgbm" in printed
    assert "mean over images" in " ".join(printed.split())
    assert "out.json" in printed
    row = json.loads((tmp_path / "out.json").read_text())["rows"][0]
    assert row["data"] == "middlebury2014"
    assert {"epe", "bad2"} <= row.keys()


def test_a_narrow_screen_cuts_no_figure_off(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    metrics = ("abs_rel", "sq_rel", "rmse", "rmse_log", "log10", "silog", "a1", "a2", "a3")
    row = {"name": "depth_slim", "data": "icl_nuim", "images": 5, "precision": "float32"}
    row |= {"seconds_per_image": 0.079, **dict.fromkeys(metrics, 0.123)}
    found = Evaluation("images", "whole images", "images", None, [row], task="depth")
    assert found.width(80) > 80
    assert found.width(200) == 200
    with (console := Console(width=found.width(80))).capture() as capture:
        console.print(found)
    assert capture.get().count("0.123") == len(metrics)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "samples"], "name at least one network"),
        (["sgbm", "--data", "samples", "--root", "a", "--root", "b"], "several roots need the name"),
        (["sgbm", "--data", "samples", "--data-option", "x"], "KEY=VALUE, got 'x'"),
        *(
            (["sgbm", "--data", "samples", "--data-option", f"{key}=x"], f"{key} is no option")
            for key in ("root", "split", "name")
        ),
        (["--run", "/nowhere", "--data", "samples"], "/nowhere is no run"),
        (
            ["sgbm", "--data", "samples", "--device", "abacus"],
            "torch has no device 'abacus' here; there is cpu",
        ),
    ],
)
def test_the_verb_names_mistakes(arguments, message):
    with pytest.raises(UserError, match=message):
        run_verb(*arguments)


def test_the_limit_holds_for_the_disparity_at_the_next_time_too():
    class Answer:
        name, precision, task = "answer", "float32", dd.tasks.get_task("sceneflow")

        def __call__(self, *images):
            return {"disparity_next": torch.full((1, 1, 4, 10), 10.0)}

    target = torch.full((1, 4, 10), 10.0)
    target[..., 5:] = 300
    given = dict.fromkeys(Answer.task.inputs, torch.zeros(3, 4, 10, dtype=torch.uint8))
    given |= {"disparity_next": target, "disparity_next_valid": target > 0}
    for limit, error in ((None, 145), (192, 0)):
        found = evaluate(Answer(), [given], metrics=["epe_next"], max_disparity=limit)
        assert found.rows[0]["epe_next"] == error
