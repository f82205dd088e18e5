import torch

from densedistill.distillation.remembering import _joined


def test_what_was_kept_is_given_on_the_device_of_the_images():
    answer = _joined([{"taps/volume/0": torch.ones(1, dtype=torch.half)}] * 2, torch.device("meta"))
    (volume,) = answer["taps"]["volume"]
    assert volume.device.type == "meta"
    assert volume.dtype == torch.float32
