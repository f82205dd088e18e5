"""Whatever a caller names as a network, as something that predicts."""

from __future__ import annotations

import contextlib
import functools
import inspect
import math
import os
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..errors import UserError, unknown
from ..networks.published import shipped_weights, stored_options
from ..networks.registry import MODELS, create_model, list_models, name_of, note_making, options_of
from ..networks.registry import task_of as task_of_name
from ..runtimes import Card, Runtime, is_exported, load_runtime, read_card
from ..tasks import Task, get_task, task_of
from .classical import SGBM
from .predictor import Predictor

Predicts = Callable[..., dict[str, torch.Tensor]]


def load_predictor(
    network: Any,
    max_disparity: int | None = None,
    device: str | torch.device | None = None,
    precision: str = "float32",
    runtime: str | None = None,
) -> Predicts:
    """Return a `Predictor` for `network`.

    Args:
        network: a network, a name (its shipped weights are loaded), `name=weights`, `sgbm`, the directory of
            a run, an exported file, or something that already predicts, which is returned as it is. A name or
            a directory may end in `@SCALE`, `dsnet_slim@2` or `dsnet_slim@2=weights`: the network then sees
            the images at that many times their size.
        max_disparity: search range, in px of the image, of a network given by name, or of a run's, that takes
            one; None for its own. A network whose weights fit one search range alone, and an exported file,
            keeps that one when it is larger.
        device, precision: of the predictor; an exported file runs on the CPU where its runtime
            has no other.
        runtime: of an exported file; None for the usual one of its suffix.

    Raises:
        UserError: no such network, weights that do not fit, a scale that is not above 0, a search range for
            what predicts no disparity or beyond that of an exported file, or a runtime for what is no
            exported file.
    """
    require_disparity(network, max_disparity)
    if is_exported(network):
        reach = _card_of(network).max_disparity
        if max_disparity is not None and reach is not None and max_disparity > reach:
            raise UserError(
                f"{network} was exported to search {reach} px, not {max_disparity}; "
                "export the network again with the range you want"
            )
        return Predictor(load_runtime(network, runtime, device=device, precision=precision))
    if runtime not in (None, "torch"):
        raise UserError(
            f"{runtime} runs exported files, and {network} is none; see densedistill export --help"
        )
    if isinstance(network, nn.Module):
        return Predictor(network, device, precision)
    if isinstance(network, str | Path):
        named, scale = split_scale(network)
        if isinstance(named, Path) or is_run(named):
            return Predictor(_load_run(Path(named), max_disparity, scale), device, precision, fold=True)
        name, _, weights = named.partition("=")
        if name == SGBM.name:
            if weights or scale is not None:
                raise UserError(f"sgbm has no weights, and no scale of its images; got '{network}'")
            return SGBM() if max_disparity is None else SGBM(max_disparity)
        _check_known(name)
        if not weights and "shipped" not in shipped_weights(name):
            raise UserError(f"no weights ship for network '{name}'; name a file: {name}=FILE")
        made = create_named(name, weights or "shipped", max_disparity, scale)
        return Predictor(made, device, precision, fold=True)
    if callable(network):
        return network
    raise UserError(f"a network is a module, a name, 'sgbm' or a predictor, got {type(network).__name__}")


def require_disparity(network: Any, max_disparity: int | None) -> None:
    """Refuse a search range for a network whose task has none."""
    if max_disparity is not None and "disparity" not in (task := task_of_network(network)).outputs:
        raise UserError(f"task {task.name} predicts no disparity; leave max_disparity out")


def task_of_network(network: Any) -> Task:
    """Return the task of what `load_predictor` takes, without loading it; stereo where nothing says it.

    Raises:
        UserError: no such network.
    """
    if is_exported(network):
        return get_task(_card_of(network).task)
    if isinstance(network, str | Path):
        network = split_scale(network)[0]
    if isinstance(network, str) and not is_run(network):
        name = network.partition("=")[0]
        if name == SGBM.name or ":" in name:
            return task_of(SGBM if name == SGBM.name else MODELS[name])
        _check_known(name)
        return get_task(task_of_name(name))
    if isinstance(network, (str, Path)):
        return get_task(_recipe_of_run(Path(network)).task)
    return task_of(network)


def size_of_network(network: Any) -> tuple[int, int] | None:
    """Return the one size (height, width) of the images that an exported file takes, None for any, of what
    `load_predictor` takes."""
    if is_exported(network):
        return _card_of(network).size
    net = getattr(network, "net", network)
    return net.card.size if isinstance(net, Runtime) else None


def load_predictors(
    networks: Any,
    max_disparity: int | None = None,
    device: str | torch.device | None = None,
    precision: str = "float32",
    runtime: str | None = None,
) -> dict[str, Predicts]:
    """Return a predictor for each of `networks` by its label: its name, a run's directory.

    Two of one name are told apart by where they come from, or else by a number.

    Args:
        networks: one or a list of, or a mapping from label to, what `load_predictor` takes.
        max_disparity: search range of those that take one; exported files keep theirs.
        device, precision, runtime: as `load_predictor` takes them.

    Raises:
        UserError: as `load_predictor`, or there is none.
    """
    given = _labelled(networks)
    predicts = [
        load_predictor(network, None if is_exported(network) else max_disparity, device, precision, runtime)
        for _, network in given
    ]
    labels = [
        str(label or run_label(network) or getattr(predict, "name", type(predict).__name__))
        for (label, network), predict in zip(given, predicts, strict=True)
    ]
    repeated = Counter(labels)
    found: dict[str, Predicts] = {}
    for (_, network), label, predict in zip(given, labels, predicts, strict=True):
        if repeated[label] > 1 and isinstance(network, (str, Path)):
            label = short_path(network)
        number, name = 2, label
        while name in found:
            number, name = number + 1, f"{label} #{number}"
        found[name] = predict
    return found


def run_label(network: Any) -> str | None:
    """Return what the student of a run is called: its directory, for the network's name is also that of the
    weights that ship; None for what is no run."""
    if not isinstance(network, (str, Path)) or is_exported(network):
        return None
    return short_path(network) if is_run(split_scale(network)[0]) else None


def short_path(word: str | Path) -> str:
    """Return the last two parts of what a network was given as, by which two of one name are told apart."""
    return str(Path(*Path(word).parts[-2:]))


def task_of_networks(networks: Any) -> Task:
    """Return the one task of what `load_predictors` takes, without loading it.

    Raises:
        UserError: there is none, no such network, or they are of several tasks.
    """
    tasks = {task.name: task for task in (task_of_network(network) for _, network in _labelled(networks))}
    if len(tasks) > 1:
        raise UserError(f"networks of one task are compared, these are of {' and '.join(tasks)}")
    return next(iter(tasks.values()))


def _labelled(networks: Any) -> list[tuple[str | None, Any]]:
    if isinstance(networks, Mapping):
        labelled: list[tuple[str | None, Any]] = list(networks.items())
    else:
        several = networks if isinstance(networks, (list, tuple)) else [networks]
        labelled = [(None, network) for network in several]
    if not labelled:
        raise UserError("there is no network to evaluate")
    return labelled


def _card_of(file: str | os.PathLike[str]) -> Card:
    if not Path(file).is_file():
        raise UserError(f"there is no file {file}")
    return read_card(Path(file))


def is_run(network: str | Path) -> bool:
    """Return whether `network` is the directory of a run."""
    return (Path(network) / "recipe.yaml").is_file()


def _check_known(name: str) -> None:
    if ":" in name or name in MODELS:
        return
    if os.path.isdir(name):
        raise UserError(f"{name} is no run: there is no recipe.yaml in it")
    if is_exported(name):
        raise UserError(f"{name} has its weights inside; name it alone, without what stands behind '='")
    if os.path.isfile(name):
        raise UserError(f"{name} is no exported file; weights are named after their network: NETWORK={name}")
    raise unknown("network", name, [*list_models(), SGBM.name])


def split_scale(network: str | Path) -> tuple[str | Path, float | None]:
    """Return what stands before `@SCALE` in the name of a network or the directory of a run, and that factor.

    Raises:
        UserError: what stands behind the last `@` is not a number above 0.
    """
    if is_run(network):
        return network, None
    base, at, factor = str(network).rpartition("@")
    weights = ""
    if not is_run(base):  # whose directory may have any letters in its name
        named, equals, file = str(network).partition("=")
        base, at, factor = named.rpartition("@")
        weights = equals + file
    if not at:
        return network, None
    if is_exported(base):
        raise UserError(f"{base} sees images at its own scale; export the network as NETWORK@{factor}")
    try:
        scale = float(factor)
    except ValueError:
        scale = 0.0
    if not 0 < scale < math.inf:
        raise UserError(
            f"behind @ stands the factor on the size of images, as in {base}@2, got '{factor}' in '{network}'"
        )
    return type(network)(f"{base}{weights}"), scale


def create_named(
    name: str,
    weights: str | None,
    max_disparity: int | None,
    scale: float | None = None,
    options: Mapping[str, Any] | None = None,
) -> nn.Module:
    """Return a registered network with `weights`, or random ones.

    Args:
        max_disparity: search range in px of the image, of a network that takes one; None for its own.
        scale: times its size at which the network sees an image; None for its own.
        options: what the weights were made with, beside what their file says.
    """
    chosen = dict(options or {})
    made_with = chosen if weights is None else {**stored_options(name, weights), **chosen}
    reach = _search_range(name, made_with, max_disparity, scale)
    if reach is not None:
        chosen["max_disparity"] = reach
    if scale is not None:
        chosen["scale"] = scale * made_with.get("scale", 1.0)
    made: Any = create_model(name, weights=weights, **chosen)
    if scale is not None:
        note_making(made, f"{name_of(made)}@{scale:g}", options_of(made))
    if weights != "shipped" and weights in shipped_weights(name):
        made.name = f"{made.name}={weights}"
    return made


def _search_range(
    name: str, made_with: Mapping[str, Any], max_disparity: int | None, scale: float | None
) -> int | None:
    """Return the search range to make network `name` with, in px that it sees; None for its own or none.

    Weights that fit one range alone keep that one when it is larger.

    Args:
        made_with: options that its weights were made with; its range counts what the network sees.
        max_disparity, scale: as `create_named` takes them.
    """
    taken = inspect.signature(MODELS[name]).parameters
    own = made_with.get("max_disparity", taken["max_disparity"].default if "max_disparity" in taken else None)
    if own is None or (max_disparity is None and scale is None):
        return None
    others = {key: value for key, value in made_with.items() if key not in ("max_disparity", "scale")}
    make = functools.partial(MODELS[name], **others)
    if max_disparity is None:
        wanted = _seen(make, own, scale)
    elif "scale" in made_with:
        wanted = _seen(make, max_disparity, (scale or 1.0) * made_with["scale"])
    else:
        wanted = _seen(make, max_disparity, scale)
    trained = made_with.get("max_disparity", wanted)
    if trained <= wanted:
        return wanted
    with torch.device("meta"):
        shapes = [
            {key: value.shape for key, value in make(max_disparity=reach).state_dict().items()}
            for reach in (wanted, trained)
        ]
    return wanted if shapes[0] == shapes[1] else trained


def _seen(make: Callable[..., nn.Module], max_disparity: int, scale: float | None) -> int:
    """Return a search range in px of the image in those that a network sees, as one that `make` takes."""
    if scale is None:
        return max_disparity
    least = -(-math.ceil(max_disparity * scale) // 16) * 16
    for reach in range(least, least + 64, 16):
        with torch.device("meta"), contextlib.suppress(UserError):
            make(max_disparity=reach)
            return reach
    return least  # making the network will say why not


def _recipe_of_run(run: Path) -> Any:
    """Return the recipe of the student that the directory of a run holds."""
    from ..recipes import Recipe, load_recipe

    recipe_file = run / "recipe.yaml"
    if not recipe_file.is_file():
        raise UserError(f"{run} is no run: there is no {recipe_file.name} in it")
    recipe = load_recipe(recipe_file)
    if not isinstance(recipe, Recipe):
        if recipe.kind != "chain":
            raise UserError(f"{run} is a {recipe.kind} of several trainings; name the folder of one of them")
        recipe = list(recipe.recipes.values())[-1]  # whose student is the chain's
    return recipe


def _load_run(run: Path, max_disparity: int | None, scale: float | None) -> nn.Module:
    """Return the student that the directory of a run holds, made as its recipe says."""
    name, weights, options = student_of(run)
    return create_named(name, weights, max_disparity, scale, options)


def student_of(run: Path) -> tuple[str, str, dict[str, Any]]:
    """Return name, weights file and options of the student that the directory of a run holds.

    Raises:
        UserError: a run of several trainings, or one that is not finished.
    """
    student, weights = _recipe_of_run(run).student, run / "student.safetensors"
    if not weights.is_file():
        raise UserError(f"{run} is not finished: there is no {weights.name} in it; resume it first")
    return student.name, str(weights), student.options
