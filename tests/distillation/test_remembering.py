import torch
from tiny_stereo import TinyStereo, stereo_batch
from torch import nn
from torch.nn.utils.rnn import pad_sequence

import densedistill as dd
from densedistill.distillation.remembering import RememberingTeacher, _joined
from densedistill.distillation.teachers import create_teacher
from densedistill.networks import InputSpec


def test_what_was_kept_is_given_on_the_device_of_the_images():
    answer = _joined([{"taps/volume/0": torch.ones(1, dtype=torch.half)}] * 2, torch.device("meta"))
    (volume,) = answer["taps"]["volume"]
    assert volume.device.type == "meta"
    assert volume.dtype == torch.float32


def test_a_teacher_that_remembers_answers_once_for_each_image(tmp_path):
    asked = []

    def make(outputs=False):
        torch.manual_seed(0)
        teacher = create_teacher(
            "remember", network="espnet_c", classes=3, outputs=outputs, folder=str(tmp_path)
        )
        teacher.watch(["scores"])
        teacher.network.register_forward_hook(lambda _, inputs, __: asked.append(len(inputs[0])))
        return teacher

    images = torch.randint(0, 255, (3, 3, 16, 24), dtype=torch.uint8)
    teacher = make()
    first = teacher({"image": images[:2]})
    again = teacher({"image": images[:2].flip(0)})
    assert asked == [2]
    tap = next(iter(first["taps"]))
    torch.testing.assert_close(again["taps"][tap][0], first["taps"][tap][0].flip(0), atol=1e-2, rtol=1e-2)
    teacher({"image": images[1:]})
    assert asked == [2, 1]  # for the new image alone
    later = make()({"image": images})
    assert asked == [2, 1]  # from the files
    assert later["placement"] == first["placement"]
    torch.testing.assert_close(later["taps"][tap][0][:2], first["taps"][tap][0])
    with_outputs = make(outputs=True)({"image": images})
    assert asked == [2, 1, 3]
    assert with_outputs["logits"].shape == (3, 3, 16, 24)
    for file in tmp_path.rglob("*.safetensors"):
        file.write_bytes(b"cut short")
    make()({"image": images})
    assert asked == [2, 1, 3, 3]


def test_answers_in_a_folder_are_those_of_a_network_with_the_same_options(tmp_path):
    torch.save(TinyStereo().state_dict(), tmp_path / "weights.pth")
    options = {"network": "tiny_stereo:TinyStereo", "weights": str(tmp_path / "weights.pth"), "outputs": True}
    far, near, again = (
        dd.create_teacher("remember", **options, folder=str(tmp_path / "kept"), max_disparity=reach)
        for reach in (16, 8, 16)
    )
    batch = stereo_batch()
    found = [teacher(batch)["disparity"] for teacher in (far, near, again)]
    assert not torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


class Counting(nn.Module):
    """Finds as many boxes in an image as its first level says."""

    task = "detection"
    input_spec = InputSpec(mean=(0, 0, 0), std=(1, 1, 1), multiple=1)

    def forward(self, image):
        counts = (255 * image[:, 0, 0, 0]).round().int().tolist()
        boxes = [torch.arange(4.0 * count).view(-1, 4) for count in counts]
        classes = [torch.arange(count) for count in counts]
        return {
            "boxes": pad_sequence(boxes, batch_first=True),
            "scores": pad_sequence([torch.ones(count) for count in counts], batch_first=True),
            "classes": pad_sequence(classes, batch_first=True, padding_value=-1),
        }


def test_what_is_remembered_of_a_detector_is_its_answer(tmp_path):
    images = torch.tensor([2, 0, 5], dtype=torch.uint8).view(3, 1, 1, 1).repeat(1, 3, 4, 6)
    wanted = Counting()(images / 255)
    for keeps in (None, str(tmp_path)):
        teacher = RememberingTeacher(Counting(), outputs=True, folder=keeps)
        for image in images:
            teacher({"image": image[None]})
        later = teacher if keeps is None else RememberingTeacher(Counting(), outputs=True, folder=keeps)
        found = later({"image": images})
        for key, value in wanted.items():
            assert found[key].dtype == value.dtype
            torch.testing.assert_close(found[key], value)
