import pytest
import torch
import torch.nn.functional as F
from architectures import one_of_each_architecture
from architectures import small as small_network
from safetensors.torch import load_file
from small import recipe
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from densedistill.distillation.recompute import recomputed_activations
from densedistill.errors import UserError
from densedistill.networks.layers.volume import concatenation_volume, groupwise_correlation_volume
from densedistill.networks.registry import task_of
from densedistill.training.train import train


class Births(TorchDispatchMode):
    """Counts the memory that was allocated within it and is still in use."""

    def __init__(self):
        super().__init__()
        self.seen = {}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        results = function(*args, **(kwargs or {}))
        for result in results if isinstance(results, tuple | list) else [results]:
            if isinstance(result, torch.Tensor):
                storage = result.untyped_storage()
                self.seen[storage.data_ptr()] = StorageWeakRef(storage), storage.nbytes()
        return results

    @property
    def bytes(self):
        return sum(size for storage, size in self.seen.values() if not storage.expired())


def tensors(value):
    """Return the tensors in what a network answered."""
    if isinstance(value, torch.Tensor):
        return [value]
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return [tensor for item in items for tensor in tensors(item)]


def learn(network, images, recompute):
    """Return all gradients, all buffers, and the memory kept between the two passes."""
    network.zero_grad()
    torch.manual_seed(1)
    with Births() as births:
        with recomputed_activations(recompute):
            answers = [a for a in tensors(network(*images)) if a.requires_grad]
            loss = torch.stack([(answer.float() ** 2).mean() for answer in answers]).mean()
        del answers
        kept = births.bytes
    loss.backward()
    gradients = {n: p.grad.clone() for n, p in network.named_parameters() if p.grad is not None}
    return gradients, {n: b.clone() for n, b in network.named_buffers()}, kept


def compare(network, images):
    """Assert that gradients and statistics are the same with and without; return the share of memory."""
    state = {name: value.clone() for name, value in network.state_dict().items()}
    plain = learn(network, images, False)
    network.load_state_dict(state)
    ours = learn(network, images, True)
    for one, other in zip(plain[:2], ours[:2], strict=True):
        assert one.keys() == other.keys()
        for name, value in one.items():
            assert torch.equal(value, other[name]), name
    return ours[2] / plain[2]


@pytest.mark.parametrize("name", one_of_each_architecture())
def test_gradients_of_every_architecture_stay_and_memory_shrinks(name):
    torch.manual_seed(0)
    network = small_network(name).train()
    views = {"stereo": 2, "sceneflow": 4}.get(task_of(name), 1)
    images, _ = network.input_spec.prepare(*torch.rand(views, 2, 3, 128, 128).unbind())
    assert compare(network, images) < 0.9


class Pieces(nn.Module):
    """What is cheap, and what looks like it."""

    def __init__(self):
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(16, 16, 3, padding=1) for _ in range(6))
        self.norms = nn.ModuleList(nn.BatchNorm2d(16) for _ in range(6))
        self.prelu = nn.PReLU(16)
        self.join = nn.Conv2d(32, 16, 1)

    def forward(self, x):
        x = self.norms[0](self.convs[0](x)).relu_()
        x = x + F.leaky_relu(self.norms[1](self.convs[1](x)), 0.1, True)
        x = F.hardtanh(x + F.relu6(self.norms[2](self.convs[2](x)), inplace=True), -1.0, 1.0)
        x = self.join(torch.cat((x, F.leaky_relu_(self.convs[3](x), 0.2)), 1))
        half = F.relu(self.norms[3](x[:, :, ::2, ::2]))
        x = F.interpolate(half, scale_factor=2, mode="bilinear") * torch.sigmoid(x)
        x = self.norms[4](self.convs[4](x))
        x = self.prelu(torch.cat((F.relu(x[:, :8], True), x[:, 8:] * 2), 1))
        y = self.norms[5](self.convs[5](x))
        y += x
        return F.relu(y) ** 2


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("bfloat16", [False, True])
def test_any_network_of_such_pieces_keeps_its_gradients(training, memory_format, bfloat16):
    torch.manual_seed(0)
    network = Pieces().to(memory_format=memory_format).train(training)
    images = torch.rand(2, 16, 32, 32).contiguous(memory_format=memory_format)
    with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
        assert compare(network, [images]) < 0.8


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize(
    "volume",
    [lambda x, y: groupwise_correlation_volume(x, y, 16, 8), lambda x, y: concatenation_volume(x, y, 16)],
)
def test_volumes_are_computed_again(volume, dtype):
    class Volumes(nn.Module):
        def __init__(self):
            super().__init__()
            self.features = nn.Sequential(nn.Conv2d(16, 16, 3), nn.BatchNorm2d(16), nn.ReLU())
            self.last = nn.LazyConv3d(4, 1)

        def forward(self, x, y):
            with torch.autocast("cpu", dtype, enabled=dtype is torch.bfloat16):
                return self.last(volume(self.features(x), self.features(y)))

    network = Volumes()
    images = torch.rand(2, 1, 16, 24, 40).unbind()
    network(*images)
    assert compare(network, images) < 0.6


class Statistics(TorchDispatchMode):
    """Counts the batch normalisations that compute statistics, and those that have them."""

    def __init__(self):
        super().__init__()
        self.computed = self.known = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function is torch.ops.aten.native_batch_norm.default:
            self.computed += args[5]
            self.known += not args[5]
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("affine", [True, False])
def test_statistics_of_a_batch_are_computed_once(affine):
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8, affine=affine), nn.ReLU(), nn.Conv2d(8, 8, 3)
    )
    image = torch.randn(2, 3, 32, 32)
    expected = torch.autograd.grad(network(image).square().sum(), list(network.parameters()))
    with recomputed_activations():
        loss = network(image).square().sum()
    with Statistics() as statistics:
        gradients = torch.autograd.grad(loss, list(network.parameters()))
    assert (statistics.computed, statistics.known) == (0, 1)
    assert all(map(torch.equal, gradients, expected))


def test_a_graph_can_be_used_twice():
    network, image = Pieces(), torch.rand(1, 16, 32, 32)
    with recomputed_activations():
        loss = network(image).mean()
    parameters = list(network.parameters())
    first = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
    second = torch.autograd.grad(loss, parameters, allow_unused=True)
    assert all(torch.equal(x, y) for x, y in zip(first, second, strict=True) if x is not None)


def test_what_was_changed_in_place_is_refused_as_autograd_does():
    image = torch.rand(1, 16, 32, 32, requires_grad=True)
    with recomputed_activations():
        squared = image * 2
        loss = (squared * squared).sum()
        squared += 1
    with pytest.raises(RuntimeError, match="changed in place"):
        loss.backward()


def test_what_was_changed_before_it_was_read_is_no_mistake():
    torch.manual_seed(0)
    norm, image = nn.BatchNorm2d(16), torch.rand(1, 16, 32, 32)

    def gradient(recompute):
        norm.zero_grad()
        with recomputed_activations(recompute):
            x = norm(image.clone())
            x.mul_(3)  # the normalised result is there no more
            loss = (x.exp() * x).sum()
        loss.backward()
        return norm.weight.grad

    assert torch.equal(gradient(True), gradient(False))


def test_training_gives_the_same_student_with_and_without(tmp_path):
    runs = [
        train(recipe("segmentation", **{"trainer__recompute": flag, "schedule__steps": 3}), tmp_path / name)
        for name, flag in (("with", True), ("without", False))
    ]
    one, other = (load_file(run.student) for run in runs)
    assert all(torch.equal(value, other[name]) for name, value in one.items())


def test_full_memory_is_one_line_that_says_what_helps(tmp_path):
    chosen = recipe("segmentation", objective__ground_truth__loss="small:greedy", trainer__recompute=False)
    with pytest.raises(UserError, match=r"^step 0: memory is full; what helps: trainer\.recompute: true; "):
        train(chosen, tmp_path / "run")
