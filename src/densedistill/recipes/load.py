"""Recipes from YAML: find, merge the twin and the flags, and check."""

from __future__ import annotations

import copy
import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from ..errors import UserError, if_close, nearest
from .schema import UNITS, Recipe, Stages, build

SHIPPED = Path(__file__).parent

Document = dict[str, Any]


def list_recipes(pattern: str = "*") -> list[str]:
    """Return the names of the recipes that ship, sorted; only those that match a shell-style `pattern`."""
    import fnmatch

    names = (path.relative_to(SHIPPED).with_suffix("").as_posix() for path in SHIPPED.rglob("*.yaml"))
    return sorted(fnmatch.filter(names, pattern))


def describe(name: str) -> str:
    """Return the one-line description of recipe `name`."""
    return str(read_document(name).get("description", ""))


def load_recipe(
    name: str | Path | Mapping[str, Any], twin: bool = False, overrides: Mapping[str, Any] | None = None
) -> Recipe | Stages:
    """Return the recipe `name`, resolved and checked.

    Args:
        name: a recipe that ships (`dsnet/sceneflow`), the path of a YAML file, or the recipe's fields
            themselves.
        twin: merge the recipe's `twin` over the rest: the same at CPU size, on the procedural world.
        overrides: dotted fields to values, for example `{"objective.volume.weight": 0}`, applied last, in a
            chain or ladder to every stage; `STAGE.field` for one of them. Of a stage that is itself called
            `student`, `student.name` is the name of its student.

    Raises:
        UserError: no such recipe, a field that does not exist, or a value of the wrong kind.
    """
    if isinstance(name, Mapping):
        document, title = copy.deepcopy(dict(name)), str(name.get("name") or "recipe")
    else:
        document = read_document(name)
        title = str(document.get("name") or (Path(name).stem if _is_path(name) else name))
    resolved = _resolve(document, twin, title)
    stages = resolved.get("stages", {})
    known = (stages, *stages.values()) if stages else (resolved,)
    overrides = {_spelled(path, *known): value for path, value in (overrides or {}).items()}
    if "stages" in resolved:
        return _build_stages(resolved, overrides, title, str(document.get("description", "")))
    for path, value in overrides.items():
        override(resolved, path, value)
    return _build(resolved, title)


def _spelled(path: str, *known: Any) -> str:
    """Return the dotted `path` as the mappings of `known` spell it: a dash that they do not have is an
    underscore, so that `--data.batch-size` is a flag."""
    key, dot, rest = path.partition(".")
    trees = [tree for tree in known if isinstance(tree, Mapping)]
    if not any(key in tree for tree in trees):
        key = key[:1] + key[1:].replace("-", "_")  # -1 counts a list's entries from its end
    return key + dot + (rest and _spelled(rest, *(tree.get(key) for tree in trees)))


def _build_stages(resolved: Document, overrides: Document, title: str, description: str) -> Stages:
    stages: dict[str, Document] = resolved["stages"]
    for path, value in overrides.items():
        addressed, inside = _address(path, stages)
        for stage_name, stage in stages.items():
            if stage_name == addressed or (addressed is None and _concerns(path, stage, stages)):
                override(stage, inside, value)
    recipes = {}
    for stage_name, stage in stages.items():
        try:
            recipes[stage_name] = _build(stage, f"{title}:{stage_name}")
        except UserError as error:
            raise UserError(f"stage '{stage_name}': {error}") from None
    return Stages(resolved["kind"], recipes, title, description)


def _address(path: str, stages: Mapping[str, Document]) -> tuple[str | None, str]:
    """Return the stage that `path` begins with, None where it is meant for all, and what it means inside.

    A stage may be called as a field is, `student` for example. Then `student.schedule.steps` is the stage's
    schedule, and `student.name` its student's name.
    """
    first, _, rest = path.partition(".")
    if first not in stages or not rest:
        return None, path
    fields = {field.name for field in dataclasses.fields(Recipe)}
    of_field = first in fields and rest.partition(".")[0] not in fields - {"name", "description"}
    return first, path if of_field else rest


def _concerns(path: str, stage: Document, stages: Mapping[str, Document]) -> bool:
    """Return whether `path` is meant for `stage`: a term's field is for the stages that have the term."""
    group, _, rest = path.partition(".")
    name, _, field = rest.partition(".")
    if group not in ("objective", "teachers") or not field:
        return True

    def has(one: Document) -> bool:  # null takes a term away
        return (one.get(group) or {}).get(name) is not None

    return has(stage) or not any(map(has, stages.values()))


def _build(document: Document, title: str) -> Recipe:
    document = {**document, "name": document.get("name") or title}
    for group in ("objective", "teachers"):
        if isinstance(document.get(group), Mapping):
            # `volume: null` in a twin, a stage or a rung takes a term away.
            document[group] = {k: v for k, v in document[group].items() if v is not None}
    teachers = {k: v for k, v in _teachers(document).items() if isinstance(v, Mapping)}
    for name, teacher in teachers.items():
        if "name" not in teacher:
            others = [other for other, entry in teachers.items() if "name" in entry]
            raise UserError(f"teachers.{name}: this teacher has no 'name'{if_close(name, others)}")
    return build(Recipe, document)


def _teachers(document: Document) -> Mapping[str, Any]:
    """Return the teachers of `document`; none where it says something else, which `build` refuses."""
    teachers = document.get("teachers")
    return teachers if isinstance(teachers, Mapping) else {}


def _is_path(name: str | Path) -> bool:
    return isinstance(name, Path) or str(name).endswith((".yaml", ".yml")) or _is_readable(Path(name))


def _is_readable(path: Path) -> bool:
    return path.is_file() or path.is_fifo()  # /dev/stdin, or a shell's <(command)


class _Loader(yaml.SafeLoader):
    """YAML in which only true and false are truth values, `on: teacher` says where, not yes, in which 1e-4 is
    a number, and in which a field, such as a term of an objective, stands but once."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Return the mapping of `node`; ConstructorError for a field that stands twice."""
        seen: set[str] = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in seen:
                raise yaml.constructor.ConstructorError(
                    problem=f"'{key.value}' stands there twice", problem_mark=key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep)


_Loader.yaml_implicit_resolvers = {
    letter: [
        (tag, re.compile(r"(true|false)$", re.IGNORECASE) if tag.endswith(":bool") else pattern)
        for tag, pattern in resolvers
    ]
    for letter, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_NUMBER = re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+$")
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _NUMBER, list("-+0123456789"))


def read_document(name: str | Path) -> Document:
    """Return the YAML of recipe `name` (one that ships, or a path) as it stands there."""
    path = Path(name) if _is_path(name) else SHIPPED / f"{name}.yaml"
    if not _is_readable(path):
        if _is_path(name):
            raise UserError(f"there is no recipe file '{path}'")
        raise UserError(f"there is no recipe '{name}'{nearest(str(name), list_recipes())}")
    document = read_yaml(path)
    if not isinstance(document, dict):
        raise UserError(
            f"{path}: a recipe is a mapping of fields, see `densedistill recipes dsnet/sceneflow`"
        )
    return document


def read_yaml(path: Path) -> Any:
    """Return what the file `path` says, read as recipes are; UserError when it cannot be read."""
    try:
        return yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        raise UserError(f"{path}{where}: not YAML: {getattr(error, 'problem', None) or error}") from None


def merge(base: Any, over: Any) -> Any:
    """Return `over` laid upon `base`: mappings merge key by key, anything else replaces.

    A mapping whose `name` or `loss` differs from the base's replaces it whole: the options of one network,
    data set or loss are not those of another.
    """
    if not (isinstance(base, Mapping) and isinstance(over, Mapping)):
        return copy.deepcopy(over)
    if any(key in base and key in over and base[key] != over[key] for key in ("name", "loss")):
        return copy.deepcopy(dict(over))
    merged = dict(copy.deepcopy(base))
    _change_unit(merged, over)
    for key, value in over.items():
        merged[key] = merge(merged[key], value) if key in merged else copy.deepcopy(value)
    return merged


def _change_unit(schedule: Document, over: Mapping[str, Any]) -> None:
    """Make room in a `schedule` for a length in another unit: the milestones keep their share of the
    whole."""
    new = [unit for unit in UNITS if over.get(unit) is not None]
    old = [unit for unit in UNITS if schedule.get(unit) is not None and unit not in new]
    if len(new) != 1 or not old:
        return
    length, milestones = schedule.pop(old[0]), schedule.get("milestones")
    if not isinstance(milestones, list) or not length:
        return
    if all(isinstance(number, int | float) for number in (length, over[new[0]], *milestones)):
        schedule["milestones"] = [m * over[new[0]] / length for m in milestones]


def override(document: Document, path: str, value: Any) -> None:
    """Set the dotted `path` of `document` to `value`, in place.

    Numbers in the path count list entries, and `*` stands for each of them, also where there is but one.
    """
    before, star, after = path.partition(".*.")
    if star:
        entries = _value_at(document, before)
        if isinstance(entries, list):
            for number in range(len(entries)):
                override(document, f"{before}.{number}.{after}", value)
        else:
            override(document, f"{before}.{after}", value)
        return
    *parents, last = path.split(".")
    here: Any = document
    for depth, key in enumerate(parents):
        here = _enter(here, key, ".".join(path.split(".")[: depth + 1]))
    if isinstance(here, list):
        index = _index(here, last, path)
        if index is None:
            here[0][last] = value
        else:
            here[index] = value
    elif isinstance(here, dict):
        _change_unit(here, {last: value})
        here[last] = value
    else:
        raise UserError(f"the recipe has no field '{path}': '{'.'.join(parents)}' is {here!r}")


def _value_at(document: Document, path: str) -> Any:
    here: Any = document
    for key in path.split("."):
        here = here.get(key) if isinstance(here, dict) else None
    return here


def _enter(here: Any, key: str, path: str) -> Any:
    if isinstance(here, list):
        index = _index(here, key, path)
        if index is not None:
            return here[index]
        here = here[0]
    if not isinstance(here, dict):
        raise UserError(f"the recipe has no field '{path}'")
    if here.get(key) is None:
        here[key] = {}
    elif isinstance(here[key], str) and key not in ("task", "description"):
        here[key] = {"name": here[key]}
    return here[key]


def _index(entries: list[Any], key: str, path: str) -> int | None:
    if key.lstrip("-").isdigit():
        if not -len(entries) <= int(key) < len(entries):
            raise UserError(f"{path}: there are {len(entries)} entries, counted from 0")
        return int(key)
    if len(entries) == 1 and isinstance(entries[0], dict):
        return None
    raise UserError(
        f"{path}: there are {len(entries)} entries; say which, for example "
        f"'{_numbered(path)}', or '*' for each"
    )


def _numbered(path: str) -> str:
    head, _, last = path.rpartition(".")
    return f"{head}.0.{last}"


def parse_value(text: str) -> Any:
    """Return what a flag's `text` means, read as the YAML of recipes."""
    try:
        return yaml.load(text, _Loader)
    except yaml.YAMLError:
        return text


# Inheritance, chains and ladders
# ----------------------------------------------------------------------------------


def _inherit(document: Document, title: str, seen: tuple[str, ...] = ()) -> Document:
    """Return `document` laid over the one that its `recipe` names, twin over twin."""
    if "recipe" not in document:
        return document
    name = str(document["recipe"])
    if name in seen:
        raise UserError(f"the recipe '{title}' leads back to itself by '{name}'")
    under = _inherit(read_document(name), title, (*seen, name))
    own = {key: value for key, value in document.items() if key != "recipe"}
    return merge({key: value for key, value in under.items() if key not in ("description", "name")}, own)


def _resolve(document: Document, twin: bool, title: str) -> Document:
    """Return the fields of one recipe, or `{"kind", "stages": {name: fields}}` of several.

    A chain's stages come first, then a ladder's rungs, which may use what the chain trained.
    """
    document = _inherit(document, title)
    fields = {key: value for key, value in document.items() if key != "twin"}
    if twin:
        if "twin" not in document:
            raise UserError(f"the recipe '{title}' has no twin")
        fields = _twinned(fields, document["twin"], title)
    chain, ladder = fields.pop("chain", None), fields.pop("ladder", None)
    if chain is None and ladder is None:
        return fields
    stages = _chain(chain, fields, twin, title) if chain is not None else {}
    if ladder is not None:
        stages |= _ladder(ladder, fields, stages, twin, title)
    return {"kind": "chain" if ladder is None else "ladder", "stages": stages}


def _stage(fields: Any, base: Document, twin: bool, title: str) -> Document:
    """Return a stage's `fields` over the recipe that they name, or over the `base` that all stages share."""
    if not isinstance(fields, Mapping):
        raise UserError(f"the recipe '{title}': a stage is a mapping of fields, not {fields!r}")
    own = {key: value for key, value in fields.items() if key not in ("recipe", "twin", "as")}
    if "recipe" in fields:
        base = _resolve(read_document(str(fields["recipe"])), twin, str(fields["recipe"]))
        if "stages" in base:
            raise UserError(f"the recipe '{title}': its stage '{fields['recipe']}' is itself several recipes")
        base = {key: value for key, value in base.items() if key != "name"}
    stage = merge(base, own)
    return _twinned(stage, fields["twin"], title) if twin and "twin" in fields else stage


def _twinned(fields: Document, twin: Any, title: str) -> Document:
    if not isinstance(twin, Mapping):
        raise UserError(f"the recipe '{title}': twin is a mapping of fields, not {twin!r}")
    merged: Document = merge(fields, twin)
    return merged


def _chain(stages: Any, base: Document, twin: bool, title: str) -> dict[str, Document]:
    if not isinstance(stages, list) or not stages:
        raise UserError(f"the recipe '{title}': chain is a list of stages")
    resolved: dict[str, Document] = {}
    for number, fields in enumerate(stages, 1):
        stage = _stage(fields, base, twin, title)
        name = _stage_name(fields, number)
        if name in resolved:
            raise UserError(f"the recipe '{title}': two stages are called '{name}'")
        later = [_stage_name(other, number + i) for i, other in enumerate(stages[number - 1 :])]
        _check_references(stage, resolved, title, name, later)
        resolved[name] = stage
    return resolved


def _stage_name(fields: Any, number: int) -> str:
    return str((fields.get("as") if isinstance(fields, Mapping) else None) or f"stage{number}")


def _check_references(
    stage: Document, earlier: Mapping[str, Document], title: str, name: str, later: Sequence[str] = ()
) -> None:
    """Refuse `weights: stage:NAME` of a stage that does not come before."""
    for user in _users(stage):
        weights = user.get("weights")
        if isinstance(weights, str) and weights.startswith("stage:"):
            source = weights.removeprefix("stage:")
            if source in later:
                when = "itself" if source == name else f"stage '{source}', which comes after it"
                raise UserError(f"the recipe '{title}': stage '{name}' uses the weights of {when}")
            if source not in earlier:
                raise UserError(
                    f"the recipe '{title}': stage '{name}' uses the weights of stage '{source}', "
                    f"but there is no earlier stage '{source}'{nearest(source, earlier)}"
                )


def _users(stage: Document) -> list[Document]:
    """Return the student and the teachers of a stage that are mappings."""
    users = [stage.get("student"), *_teachers(stage).values()]
    return [user for user in users if isinstance(user, dict)]


def _ladder(
    ladder: Any, base: Document, earlier: Mapping[str, Document], twin: bool, title: str
) -> dict[str, Document]:
    """Each rung is laid over the common fields, or over the rung before when `cumulative`; once for each of
    `seeds`."""
    known = ("rungs", "cumulative", "seeds")
    if not isinstance(ladder, Mapping) or not isinstance(ladder.get("rungs"), Mapping):
        raise UserError(f"the recipe '{title}': ladder has the field rungs, a mapping of name to fields")
    for key in ladder:
        if key not in known:
            raise UserError(f"the recipe has no field 'ladder.{key}'{nearest(key, known)}")
    seeds = ladder.get("seeds") or [None]
    if not isinstance(seeds, list):
        raise UserError(f"the recipe '{title}': ladder.seeds is a list of seeds, not {seeds!r}")
    resolved: dict[str, Document] = {}
    below = base
    for name, fields in ladder["rungs"].items():
        below = _stage(fields or {}, below if ladder.get("cumulative") else base, twin, title)
        for seed in seeds:
            suffix = "" if len(seeds) == 1 else f"-seed{seed}"
            resolved[f"{name}{suffix}"] = rung = copy.deepcopy(below)
            if seed is not None:
                rung["seed"] = seed
            for user in _users(rung):
                # Another rung's weights are those of the same seed.
                same_seed = f"{user.get('weights')}{suffix}"
                if same_seed.startswith("stage:") and same_seed.removeprefix("stage:") in resolved:
                    user["weights"] = same_seed
            before = {key: value for key, value in resolved.items() if value is not rung}
            _check_references(rung, {**earlier, **before}, title, f"{name}{suffix}")
    return resolved
