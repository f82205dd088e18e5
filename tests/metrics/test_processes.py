"""Two processes give the figures of one."""

import socket

import pytest
import torch
import torch.distributed as distributed
import torch.multiprocessing as multiprocessing

from densedistill.inference.evaluate import evaluate
from densedistill.metrics import D1, EPE, RMS, Bad, create_metric


def maps():
    generator = torch.Generator().manual_seed(0)
    target = torch.rand(5, 1, 6, 8, generator=generator) * 100 + 1
    prediction = target + 5 * torch.randn(target.shape, generator=generator)
    return prediction, target, torch.rand(target.shape, generator=generator) < 0.5


def every_metric():
    return [kind(per_image=per_image) for kind in (EPE, D1, Bad, RMS) for per_image in (False, True)]


def boxes(image):
    generator = torch.Generator().manual_seed(image)
    truth = torch.rand(1, 2, 4, generator=generator) * 50
    truth[..., 2:] += truth[..., :2] + 10
    found = truth + 2 * torch.randn(1, 2, 4, generator=generator)
    classes = torch.tensor([[0, 1]])
    scores = torch.rand(1, 2, generator=generator)
    return {"boxes": found, "scores": scores, "classes": classes}, {"boxes": truth, "classes": classes}


class Offset:
    """Answers with the first channel of the left view, plus one px."""

    name, precision = "offset", "float32"

    def __call__(self, left, right):
        return {"disparity": left[None, :1].float() + 1}


def samples():
    prediction, target, valid = maps()
    return [
        {
            "left": prediction[i].clamp(0, 255).byte().repeat(3, 1, 1),
            "right": torch.zeros(3, 6, 8, dtype=torch.uint8),
            "disparity": target[i],
            "disparity_valid": valid[i],
        }
        for i in range(5)
    ]


def work(rank, port, results):
    distributed.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    prediction, target, valid = maps()
    computed = []
    for metric in every_metric():
        for image in range(rank, 5, 2):
            metric.update(prediction[image, None], target[image, None], valid[image, None])
        computed.append(metric.compute().item())
    precision = create_metric("map")  # whose states are lists: three images here, two there
    for image in range(rank, 5, 2):
        precision.update(*boxes(image))
    computed.append(precision.compute().item())
    row = evaluate(Offset(), samples(), distributed=True).rows[0]
    results[rank] = (computed, {key: row[key] for key in ("epe", "d1", "bad2", "images")})
    distributed.destroy_process_group()


@pytest.mark.full  # starting two processes takes most of a quarter minute
def test_two_processes_give_the_figures_of_one():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with multiprocessing.Manager() as manager:
        results = manager.dict()
        multiprocessing.spawn(work, args=(port, results), nprocs=2)
        first, second = results[0], results[1]
    assert first == second
    alone = []
    for metric in every_metric():
        metric.update(*maps())
        alone.append(metric.compute().item())
    precision = create_metric("map")
    for image in range(5):
        precision.update(*boxes(image))
    alone.append(precision.compute().item())
    assert first[0] == pytest.approx(alone, rel=1e-6)
    row = evaluate(Offset(), samples()).rows[0]
    assert first[1] == pytest.approx({key: row[key] for key in first[1]}, rel=1e-6)
