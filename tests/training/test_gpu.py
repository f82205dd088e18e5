"""What a GPU would be asked for, told without one."""

from types import SimpleNamespace

import lightning
import pytest
import torch
import toy

from densedistill.errors import UserError
from densedistill.recipes import load_recipe
from densedistill.training import Run, final
from densedistill.training.callbacks import Pilot
from densedistill.training.optimizer import continue_from
from densedistill.training.train import _fit, _lightning, train


def gpus(monkeypatch, count):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)


@pytest.mark.parametrize(
    ("there", "wanted", "started", "devices", "strategy"),
    [
        (0, None, None, 1, "auto"),
        (1, None, None, 1, "auto"),
        (4, None, None, 4, "ddp"),
        (4, 1, None, 1, "auto"),
        (4, 2, None, 2, "ddp"),
        (4, None, 2, 2, "ddp"),
        (0, None, 2, 2, "ddp"),
    ],
)
def test_a_recipe_takes_the_gpus_that_it_names_or_all(
    tmp_path, monkeypatch, there, wanted, started, devices, strategy
):
    """One process is not wrapped, which would wait for gradients of what no term reaches."""
    gpus(monkeypatch, there)
    if started:
        monkeypatch.setenv("LOCAL_WORLD_SIZE", str(started))
    asked = {}
    monkeypatch.setattr(lightning, "Trainer", lambda **options: asked.update(options))
    recipe = load_recipe(toy.recipe(trainer={"devices": wanted, "precision": "float32"}))
    _lightning(recipe, Run(tmp_path), None)
    assert asked["devices"] == devices
    assert asked["strategy"] == strategy
    assert asked["accelerator"] == ("gpu" if there else "cpu")
    assert bool(asked["plugins"]) == (there > 0 and devices > 1)


@pytest.mark.parametrize(("accelerator", "device"), [("auto", "cuda"), ("cpu", "cpu")])
def test_a_run_is_judged_where_it_was_trained(tmp_path, monkeypatch, accelerator, device):
    run = train(toy.recipe(trainer={"accelerator": "cpu", "pictures": 0}), run=tmp_path / "run")
    recipe = load_recipe(toy.recipe(trainer={"accelerator": accelerator}))
    run.write_recipe(recipe)
    devices = []
    monkeypatch.setattr(final, "Predictor", lambda network, device: devices.append(device))
    gpus(monkeypatch, 1)
    final.finish(run)
    assert devices == [device, device]


@pytest.mark.parametrize(
    "said",
    [
        "CUDA error: out of memory",
        "MPS backend out of memory (MPS allocated: 8.00 GiB)",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
    ],
)
def test_full_memory_of_a_gpu_is_one_line(tmp_path, said):
    class Full:
        def fit(self, module, train_dataloaders):
            raise RuntimeError(said)

    module = SimpleNamespace(step=3, recipe=load_recipe(toy.recipe()), run=Run(tmp_path))
    with pytest.raises(UserError, match=r"^step 3: memory is full; what helps: trainer\.accumulate: 2"):
        _fit(Full(), module, None, Pilot(None, None))


def test_step_counts_of_another_device_lie_where_a_fused_optimizer_wants_them():
    """Beside the weights; a run on Apple's GPU, where nothing is fused, leaves them on the CPU."""
    learned = torch.nn.Parameter(torch.zeros(3))
    before = torch.optim.Adam([learned], fused=False)
    learned.grad = torch.ones(3)
    before.step()
    elsewhere = torch.nn.Parameter(torch.zeros(3, device="meta"))
    after = torch.optim.Adam([elsewhere], fused=True)
    continue_from(after, before.state_dict())
    assert after.state[elsewhere]["step"].device == elsewhere.device
    assert after.param_groups[0]["fused"]
