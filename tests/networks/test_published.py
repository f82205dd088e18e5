"""Weights: every layout that is released, and every way in which a file does not fit."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import densedistill as dd
from densedistill.networks import published
from densedistill.networks.published import save_weights

GOLDEN = Path(__file__).parent.parent / "golden"


def published_entries(name):
    manifest = json.loads((GOLDEN / f"{name}.json").read_text())["entries"]
    generator = torch.Generator().manual_seed(0)
    return {
        key: torch.zeros(shape, dtype=torch.int64)
        if key.endswith("num_batches_tracked")
        else torch.rand(shape, generator=generator)
        for key, shape in manifest.items()
    }


@pytest.fixture(scope="module")
def entries():
    return published_entries("dsnet_bb21_ed2_n8")


def loaded(source, name="dsnet_bb21_ed2_n8"):
    return dd.create_model(name, weights=source).state_dict()


def with_prefix(prefix, entries):
    return {prefix + key: value for key, value in entries.items()}


@pytest.mark.parametrize("suffix", [".pth", ".ckpt", ".pt", ".tar"])
@pytest.mark.parametrize(
    "layout",
    [
        lambda e: e,
        lambda e: with_prefix("module.", e),
        lambda e: {
            "epoch": 3,
            "model": with_prefix("module.", e),
            "optimizer": {"state": {}, "param_groups": []},
        },
        lambda e: {"net": with_prefix("module.", e), "optimizer": {}, "epoch": 3},
        lambda e: {"state_dict": with_prefix("model.", e), "hyper_parameters": {"lr": 1e-3}},
        lambda e: with_prefix("_orig_mod.module.", e),
    ],
    ids=["plain", "parallel", "gwcnet", "lacgwcnet", "lightning", "compiled"],
)
def test_every_released_wrapping_loads(entries, layout, suffix, tmp_path):
    path = tmp_path / f"weights{suffix}"
    torch.save(layout(entries), path)
    state = loaded(path)
    assert torch.equal(
        state["features.stem.1.conv.weight"], entries["feature_extraction.firstconv.2.0.weight"]
    )
    assert torch.equal(state["aggregation.encoders.1.decode2.norm.bias"], entries["dres3.conv6.1.bias"])
    assert torch.equal(state["aggregation.heads.2.logits.weight"], entries["classif2.2.weight"])


def test_published_names_load_from_safetensors_too(entries, tmp_path):
    save_file(entries, tmp_path / "weights.safetensors")
    state = loaded(tmp_path / "weights.safetensors")
    assert torch.equal(state["aggregation.residual.1.norm.weight"], entries["dres1.2.1.weight"])


def test_both_names_of_acvnets_attention_are_told_apart(tmp_path):
    for name, other in (("acvnet", "acvnet_small"), ("acvnet_small", "acvnet")):
        torch.save(published_entries(name), tmp_path / name)
        with pytest.raises(dd.UserError, match=rf"it fits .*\b{name}\b") as error:
            dd.create_model(other, weights=tmp_path / name)
        assert "dres1_att" in str(error.value)
        assert "\n" not in str(error.value)


def test_entries_that_reach_no_output_are_accepted_and_not_kept(tmp_path):
    for variant in ("dsnet_bb21_ed2_n16", "dsnet_bb21_ed2_n16_adapted", "dsnet_bb21_ed2_n16_learned_map"):
        torch.save(published_entries(variant), tmp_path / "weights.pth")
        state = loaded(tmp_path / "weights.pth", "dsnet_bb21_ed2_n16")
        assert state.keys() == dd.create_model("dsnet_bb21_ed2_n16").state_dict().keys()
    torch.save(published_entries("acvnet_dsnet_teacher"), tmp_path / "weights.pth")
    assert (
        loaded(tmp_path / "weights.pth", "acvnet_small").keys()
        == dd.create_model("acvnet_small").state_dict().keys()
    )


def test_an_unused_entry_of_another_shape_is_refused(tmp_path):
    entries = published_entries("dsnet_bb21_ed2_n16")
    entries["feature_extraction.feat_trans.0.0.weight"] = torch.zeros(120, 192, 1, 1)
    torch.save(entries, tmp_path / "weights.pth")
    with pytest.raises(dd.UserError, match=r"1 entries of another shape .*feat_trans"):
        loaded(tmp_path / "weights.pth", "dsnet_bb21_ed2_n16")


def test_checkpoints_without_batch_counters_load(entries, tmp_path):
    old = {key: value for key, value in entries.items() if not key.endswith("num_batches_tracked")}
    torch.save(old, tmp_path / "weights.pth")
    loaded(tmp_path / "weights.pth")


def test_what_does_not_fit_is_said_in_one_line_with_counts(entries, tmp_path):
    broken = dict(entries)
    del broken["dres1.0.0.weight"], broken["dres1.0.1.bias"]
    broken["dres9.weight"] = torch.zeros(1)
    broken["classif0.2.weight"] = torch.zeros(2, 8, 3, 3, 3)
    torch.save(broken, tmp_path / "weights.pth")
    with pytest.raises(dd.UserError) as error:
        loaded(tmp_path / "weights.pth")
    message = str(error.value)
    assert "weights.pth does not fit network 'dsnet_bb21_ed2_n8'" in message
    assert (
        "2 entries missing (aggregation.residual.0.conv.weight, aggregation.residual.0.norm.bias)" in message
    )
    assert "1 entries unexpected (dres9.weight)" in message
    assert (
        "1 entries of another shape (classif0.2.weight (2, 8, 3, 3, 3) instead of (1, 8, 3, 3, 3))" in message
    )
    assert "looks most like dsnet_bb21_ed2_n8" in message
    assert "\n" not in message


def test_a_checkpoint_of_another_network_names_that_network(tmp_path):
    torch.save({"model": published_entries("gwcnet_gc")}, tmp_path / "weights.pth")
    with pytest.raises(dd.UserError, match=r"it fits gwcnet_gc$"):
        loaded(tmp_path / "weights.pth", "dsnet_bb21_ed2_n16")


def test_a_checkpoint_of_no_network_says_so(tmp_path):
    torch.save({"resnet.fc.weight": torch.zeros(3)}, tmp_path / "weights.pth")
    with pytest.raises(dd.UserError, match="it looks like no network here"):
        loaded(tmp_path / "weights.pth")


def test_half_precision_is_stored_small_and_loaded_into_float32(tmp_path):
    network = dd.create_model("dsnet_slim")
    path = save_weights(network, tmp_path / "half.safetensors", {"recipe": "dsnet/sceneflow"}, half=True)
    assert path.stat().st_size < 2.2 * sum(p.numel() for p in network.parameters())
    assert load_file(path)["aggregation.residual.0.norm.num_batches_tracked"].dtype == torch.int64
    again = dd.load_weights(dd.create_model("dsnet_slim"), path)
    for ours, theirs in zip(network.parameters(), again.parameters(), strict=True):
        assert theirs.dtype == torch.float32
        assert torch.allclose(ours, theirs, rtol=1e-3, atol=1e-6)


def test_equal_weights_are_equal_files(tmp_path):
    net = dd.create_model("dsnet_slim").eval()
    metadata = {"zürich": "8", "seed": "1", "steps": "2", "recipe": "mine"}
    files = [save_weights(net, tmp_path / "w.safetensors", metadata).read_bytes() for _ in range(8)]
    assert len(set(files)) == 1
    assert int.from_bytes(files[0][:8], "little") % 8 == 0
    with safe_open(tmp_path / "w.safetensors", "pt") as file:
        assert file.metadata() == {"network": "dsnet_slim", "options": "{}", **metadata}
    for key, value in load_file(tmp_path / "w.safetensors").items():
        assert torch.equal(value, net.state_dict()[key])


def test_saved_file_carries_name_and_metadata(tmp_path):
    path = save_weights(dd.create_model("dsnet_slim"), tmp_path / "a.safetensors", {"seed": 1})
    with safe_open(path, "pt") as file:
        assert file.metadata() == {"network": "dsnet_slim", "options": "{}", "seed": "1"}


def test_wrappers_are_looked_through(tmp_path):
    network = dd.create_model("dsnet_slim")
    path = save_weights(torch.nn.DataParallel(network), tmp_path / "a.safetensors")
    assert load_file(path).keys() == network.state_dict().keys()
    dd.load_weights(torch.nn.DataParallel(network), path)


@pytest.mark.full
def test_a_compiled_network_is_looked_through(tmp_path):
    network = dd.create_model("dsnet_slim")
    path = save_weights(torch.compile(network), tmp_path / "a.safetensors")
    assert load_file(path).keys() == network.state_dict().keys()
    dd.load_weights(torch.compile(network), path)


class Malicious:
    def __reduce__(self):
        return (Path.touch, (Path("executed"),))


def test_objects_are_never_unpickled(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"model": Malicious()}, "weights.pth")
    with pytest.raises(dd.UserError, match=r"holds objects \(\w+\), which could run code"):
        loaded("weights.pth")
    assert not Path("executed").exists()


@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors"])
def test_a_truncated_file_is_named(name, entries, tmp_path):
    path = tmp_path / name
    (torch.save if name.endswith("pth") else save_file)(entries, path)
    path.write_bytes(path.read_bytes()[:100_000])
    with pytest.raises(dd.UserError, match=rf"cannot read weights from .*{name}") as error:
        loaded(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["weights", "weights.pth", "v1.2"])
def test_safetensors_are_known_by_content_whatever_the_file_is_called(name, tmp_path):
    made = dd.create_model("dsnet_slim", max_disparity=32)
    save_weights(made, tmp_path / "weights.safetensors")
    (tmp_path / "weights.safetensors").rename(tmp_path / name)
    assert published.stored_options("dsnet_slim", tmp_path / name) == {"max_disparity": 32}
    dd.load_weights(dd.create_model("dsnet_slim", max_disparity=32), tmp_path / name)


def test_a_text_file_is_no_weights(tmp_path):
    (tmp_path / "weights.pth").write_text("task: stereo\n")
    with pytest.raises(dd.UserError, match=r"cannot read weights from .*weights\.pth"):
        loaded(tmp_path / "weights.pth")


def test_a_file_without_tensors_is_refused(tmp_path):
    torch.save({"epoch": 1}, tmp_path / "weights.pth")
    with pytest.raises(dd.UserError, match="holds no weights"):
        loaded(tmp_path / "weights.pth")


@pytest.mark.parametrize("source", ["nowhere/weights.pth", "weights.safetensors", Path("weights")])
def test_a_missing_file_is_named(source):
    with pytest.raises(dd.UserError, match="there is no weights file"):
        loaded(source)


@pytest.mark.parametrize("source", ["", "."])
def test_a_name_of_nothing_is_no_tag(source):
    with pytest.raises(dd.UserError, match=f"has no shipped weights '{source}'"):
        dd.load_weights(dd.create_model("dsnet_slim"), source)


def test_shipped_weights_are_found_by_tag(tmp_path, monkeypatch):
    monkeypatch.setattr(published, "SHIPPED", tmp_path)
    network = dd.create_model("dsnet_slim")
    with pytest.raises(dd.UserError, match="no weights ship for network 'dsnet_slim'"):
        dd.load_weights(network, "shipped")
    save_weights(network, tmp_path / "dsnet_slim.safetensors", half=True)
    save_weights(network, tmp_path / "dsnet_slim.kitti.safetensors", half=True)
    save_weights(network, tmp_path / "dsnet_slimmer.safetensors", half=True)
    assert list(published.shipped_weights("dsnet_slim")) == ["kitti", "shipped"]
    dd.load_weights(network, "shipped")
    dd.load_weights(network, "kitti")
    with pytest.raises(dd.UserError, match="did you mean 'kitti'"):
        dd.load_weights(network, "kiti")


def test_weights_are_fetched_from_the_hub(tmp_path, monkeypatch):
    path = save_weights(dd.create_model("dsnet_slim"), tmp_path / "w.safetensors")
    asked = []

    def fetch(repository, file, revision=None):
        asked.append((repository, file, revision))
        return str(path)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", fetch)
    dd.create_model("dsnet_slim", weights="hf://owner/nets@v1/folder/w.safetensors")
    assert asked == [("owner/nets", "folder/w.safetensors", "v1")]


def test_an_incomplete_hub_address_is_refused():
    with pytest.raises(dd.UserError, match="hf://owner/repository/file"):
        dd.create_model("dsnet_slim", weights="hf://owner/file")


def test_weights_for_another_search_range_say_for_which(tmp_path):
    path = save_weights(dd.create_model("tsnnet_naive", max_disparity=32), tmp_path / "naive.safetensors")
    with pytest.raises(dd.UserError, match=r"entries of another shape .* made with max_disparity=32$"):
        dd.create_model("tsnnet_naive", weights=path, max_disparity=64)


def test_weights_of_a_network_and_of_its_wrapping_fit_either(tmp_path):
    network = dd.create_model("dsnet_slim")
    bare = save_weights(network, tmp_path / "bare.safetensors")
    wrapped = dd.load_weights(dd.wrap(dd.create_model("dsnet_slim")), bare)
    assert all(map(torch.equal, wrapped.parameters(), network.parameters()))
    again = dd.load_weights(
        dd.create_model("dsnet_slim"), save_weights(wrapped, tmp_path / "wrapped.safetensors")
    )
    assert all(map(torch.equal, again.parameters(), network.parameters()))


def test_weights_of_ours_bring_the_options_they_were_trained_with(tmp_path):
    network = dd.create_model("dsnet_slim", max_disparity=64, width=32)
    path = save_weights(network, tmp_path / "slim.safetensors")
    assert dd.create_model("dsnet_slim", weights=str(path)).options == {"max_disparity": 64, "width": 32}
    assert dd.create_model("dsnet_slim", weights=str(path), max_disparity=96).max_disparity == 96
