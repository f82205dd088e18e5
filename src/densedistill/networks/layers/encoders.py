"""timm's image encoders as published depth networks use them: the same weights, other taps and dilations."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn

from ...errors import UserError, nearest
from .._layout import Rule

_MOBILENET_STAGES = (1, 2, 3, 4, 3, 3, 1)


def image_encoder(name: str, pretrained: bool = False, **options: Any) -> Any:
    """Return timm's network `name` without its classifier.

    Args:
        name: architecture, with the tag of its ImageNet weights where that matters (`resnet18.tv_in1k`).
        pretrained: fetch the ImageNet weights.
        **options: of `timm.create_model`.

    Raises:
        UserError: the weights cannot be fetched.
    """
    import timm  # takes a second, which no stereo network needs

    if not options.get("features_only"):
        options["num_classes"] = 0
    try:
        encoder = timm.create_model(name, pretrained=pretrained, **options)
    except Exception as error:
        if not pretrained:
            raise
        reason = " ".join(str(error).split())[:160]
        raise UserError(
            f"cannot fetch the ImageNet weights of '{name}' ({type(error).__name__}: {reason}); "
            "go online once, or start without them: pretrained: false"
        ) from None
    for unused in ("fc", "global_pool", "classifier"):  # timm leaves an empty module there
        if hasattr(encoder, unused):
            setattr(encoder, unused, nn.Identity())
    return encoder


def feature_encoder(name: str, **options: Any) -> Any:
    """Return timm's network `name`, from random weights, made to give the features of its stages.

    Args:
        name: architecture.
        **options: of `timm.create_model`.

    Raises:
        UserError: there is none of this name, or it does not give such features.
    """
    import timm

    try:
        return timm.create_model(name, features_only=True, pretrained=False, **options)
    except Exception as error:  # timm raises what each of its networks happens to
        known = timm.list_models()
        if name not in known:
            raise UserError(f"timm has no network '{name}'{nearest(name, known)}") from None
        asked = "".join(f" with {key}={value}" for key, value in options.items())
        reason = str(error).partition("\n")[0]
        raise UserError(f"timm gives no features of '{name}'{asked}: {reason}") from None


def load_torchvision_mobilenet(encoder: nn.Module) -> None:
    """Load torchvision's ImageNet weights (V1), which timm does not have, into timm's `mobilenetv2_100`.

    Raises:
        UserError: they cannot be fetched.
    """
    from torchvision.models import MobileNet_V2_Weights

    try:
        entries = MobileNet_V2_Weights.IMAGENET1K_V1.get_state_dict(progress=False, check_hash=True)
    except (OSError, RuntimeError) as error:
        raise UserError(
            f"cannot fetch the ImageNet weights of MobileNetV2 ({error}); "
            "go online once, or start without them: pretrained: false"
        ) from None
    own = encoder.state_dict()
    kept = [value for key, value in entries.items() if not key.startswith("classifier.")]
    # Both list the same layers in the same order.
    encoder.load_state_dict(dict(zip(own, kept, strict=True)))


def resnet_features(encoder: nn.Module, image: Tensor) -> list[Tensor]:
    """Return the outputs of a ResNet's stem (before pooling) and layers, at strides 2, 4, 8, 16, 32."""
    modules = dict(encoder.named_children())
    features = [modules["act1"](modules["bn1"](modules["conv1"](image)))]
    x = modules["maxpool"](features[0])
    for layer in ("layer1", "layer2", "layer3", "layer4"):
        if layer in modules:
            x = modules[layer](x)
            features.append(x)
    return features


def dilate(modules: Iterable[nn.Module], dilation: int) -> None:
    """Give every 3x3 convolution in `modules` this dilation, and the padding that keeps the size."""
    for module in modules:
        for conv in module.modules():
            if isinstance(conv, nn.Conv2d) and conv.kernel_size == (3, 3):
                conv.dilation, conv.padding = (dilation, dilation), (dilation, dilation)


def expanded(block: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the features inside an inverted-residual block, after its depthwise part, and its projection.

    The sum with the block's input is left out, as Spatial-KD's code does where it taps a block.
    """
    layers = dict(block.named_children())
    if "conv_pwl" in layers:
        x = layers["bn1"](layers["conv_pw"](x))
        inside = layers["bn2"](layers["conv_dw"](x))
        return inside, layers["bn3"](layers["conv_pwl"](inside))
    inside = layers["bn1"](layers["conv_dw"](x))
    return inside, layers["bn2"](layers["conv_pw"](inside))


def mobilenet_features(encoder: nn.Module, image: Tensor) -> list[Tensor]:
    """Return MobileNetV2's features as Spatial-KD taps them: 32, 144, 192, 576, 1280 at strides 2 to 32.

    The first four stand inside blocks 1, 3, 6 and 13, whose residual is lost (where they have one).
    """
    modules = dict(encoder.named_children())
    x, features = modules["bn1"](modules["conv_stem"](image)), []
    tapped = {(0, 0), (1, 1), (2, 2), (4, 2)}
    for i, stage in enumerate(modules["blocks"].children()):
        for j, block in enumerate(stage.children()):
            if (i, j) in tapped:
                inside, x = expanded(block, x)
                features.append(inside)
            else:
                x = block(x)
    return [*features, modules["bn2"](modules["conv_head"](x))]


def efficientnet_features(encoder: nn.Module, image: Tensor) -> list[Tensor]:
    """Return EfficientNet's features as Spatial-KD taps them: after stages 0, 1, 2, 4, and of the head.

    The last is the head's batch normalisation before its activation.
    """
    modules = dict(encoder.named_children())
    x, features = modules["bn1"](modules["conv_stem"](image)), []
    for i, stage in enumerate(modules["blocks"].children()):
        x = stage(x)
        if i in (0, 1, 2, 4):
            features.append(x)
    x = modules["conv_head"](x)
    norm = modules["bn2"]
    assert isinstance(norm, nn.BatchNorm2d)
    return [*features, nn.BatchNorm2d.forward(norm, x)]


def mobilenet_rules(published: str, ours: str) -> tuple[Rule, ...]:
    """Return how torchvision's names of MobileNetV2, under `published`, become timm's under `ours`."""
    rules: list[Rule] = [(f"{published}.0.0", f"{ours}.conv_stem"), (f"{published}.0.1", f"{ours}.bn1")]
    blocks = [f"{i}.{j}" for i, count in enumerate(_MOBILENET_STAGES) for j in range(count)]
    for number, block in enumerate(blocks, 1):
        source, target = f"{published}.{number}.conv", f"{ours}.blocks.{block}"
        names = ("0.0", "0.1", "1.0", "1.1", "2", "3") if number > 1 else ("0.0", "0.1", "1", "2")
        rules += _block_rules(source, names, target)
    last = f"{published}.{len(blocks) + 1}"
    return (*rules, (f"{last}.0", f"{ours}.conv_head"), (f"{last}.1", f"{ours}.bn2"))


def staged_mobilenet_rules(published: str, ours: str) -> tuple[Rule, ...]:
    """Return the same for VNL's names, which count blocks anew in each of four stages."""
    rules: list[Rule] = [(f"{published}1.0.0", f"{ours}.conv_stem"), (f"{published}1.0.1", f"{ours}.bn1")]
    stages = {2: (0, 1), 3: (2,), 4: (3, 4), 5: (5, 6)}
    for stage, parts in stages.items():
        blocks = [f"{i}.{j}" for i in parts for j in range(_MOBILENET_STAGES[i])]
        for number, block in enumerate(blocks):
            names = ("0", "1", "3", "4", "6", "7") if block != "0.0" else ("0", "1", "3", "4")
            rules += _block_rules(f"{published}{stage}.{number}.conv", names, f"{ours}.blocks.{block}")
    return tuple(rules)


def _block_rules(published: str, names: tuple[str, ...], ours: str) -> list[Rule]:
    layers: tuple[str, ...] = ("conv_pw", "bn1", "conv_dw", "bn2", "conv_pwl", "bn3")
    if len(names) == 4:  # the first block expands nothing
        layers = ("conv_dw", "bn1", "conv_pw", "bn2")
    return [(f"{published}.{name}", f"{ours}.{layer}") for name, layer in zip(names, layers, strict=True)]
