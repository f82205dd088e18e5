"""Which two files make a pair: given one by one, in a folder, or in a list."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ..data.datasets.folder import FILES, VIEWS, short_names
from ..data.formats import IMAGE_SUFFIXES
from ..errors import UserError

PathLike = str | os.PathLike[str]


@dataclass(frozen=True)
class Pair:
    """The files of a left and a right view, and the name that outputs get."""

    left: Path
    right: Path
    name: str


def pairs_from(source: PathLike | Iterable[Pair | tuple[PathLike, PathLike]]) -> list[Pair]:
    """Return the pairs that `source` means: a folder, a list file, or an iterable of pairs or of two paths.

    Raises:
        UserError: nothing there, or a left view without its right.
    """
    if isinstance(source, (str, os.PathLike)):
        path = Path(source)
        return pairs_in_folder(path) if path.is_dir() else pairs_in_list(path)
    given = list(source)
    bare = [(Path(p[0]), Path(p[1])) for p in given if not isinstance(p, Pair)]
    names = iter(names_of([left for left, _ in bare]))
    return [p if isinstance(p, Pair) else Pair(Path(p[0]), Path(p[1]), next(names)) for p in given]


def pairs_in_folder(folder: Path) -> list[Pair]:
    """Return the pairs below `folder`: left/ and right/ (or image_0/ and image_1/, …), or SCENE/im0 and im1.

    Raises:
        UserError: no pair, or a view without its other.
    """
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}")
    for left, right in VIEWS:
        if (folder / left).is_dir() and (folder / right).is_dir():
            return _side_by_side(folder / left, folder / right)
    scenes = [folder, *sorted(path for path in folder.rglob("*") if path.is_dir())]
    found = [pair for scene in scenes if (pair := _scene(scene))]
    if not found:
        names = ", ".join(f"{left}/ and {right}/" for left, right in VIEWS[:3])
        raise UserError(f"no pairs in {folder}; expected {names}, or im0.png and im1.png in a folder a pair")
    called = names_of([left for left, _ in found])
    return [Pair(left, right, name) for (left, right), name in zip(found, called, strict=True)]


def pairs_in_list(path: Path) -> list[Pair]:
    """Return the pairs of a list file (see `read_list`): left and right on each line.

    Raises:
        UserError: the list or a file in it is missing, or a line has one column.
    """
    files = read_list(path, 2)
    names = names_of([left for left, _ in files])
    return [Pair(left, right, name) for (left, right), name in zip(files, names, strict=True)]


def read_list(path: Path, columns: int) -> list[tuple[Path, ...]]:
    """Return the files on each line of a list: so many `columns`, further ones are ignored, # for comments.

    Paths are relative to the list's folder.

    Raises:
        UserError: the list or a file in it is missing, or a line is too short.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        if not path.exists():
            raise UserError(f"there is no folder or list file {path}") from None
        raise UserError(f"cannot read the list {path}: {error.strerror}") from None
    if b"\0" in raw:
        raise UserError(f"cannot read the list {path}: it is not text")
    wanted = {1: "an image is one path", 2: "a pair is two paths, left and right"}
    files = []
    for number, line in enumerate(os.fsdecode(raw).splitlines(), 1):  # of paths, whatever the locale
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        if len(words) < columns:
            said = wanted.get(columns, "a sequence is four paths, left and right now and then")
            raise UserError(f"{path}, line {number}: {said}, got '{' '.join(words)}'")
        row = tuple(path.parent / word for word in words[:columns])
        for view in row:
            if not view.is_file():
                raise UserError(f"{path}, line {number}: there is no file {view}")
        files.append(row)
    if not files:
        raise UserError(f"there is no {'image' if columns == 1 else 'pair'} in the list {path}")
    return files


def _side_by_side(left: Path, right: Path) -> list[Pair]:
    """Pair the files at or below two folders by their path less the suffix."""
    views: list[dict[str, Path]] = [{}, {}]
    for folder, named in zip((left, right), views, strict=True):
        for path in images_of(folder.rglob("*")):
            name = path.relative_to(folder).with_suffix("").as_posix()
            if named.setdefault(name, path) is not path:
                raise UserError(f"{named[name]} and {path} have one name; rename or remove one")
    alone = sorted(views[0].keys() ^ views[1].keys())
    if alone:
        name = alone[0]
        there, missing = (left, right) if name in views[0] else (right, left)
        more = f" (and {len(alone) - 1} more without the other view)" if len(alone) > 1 else ""
        raise UserError(f"{there / name} has no counterpart in {missing}{more}")
    if not views[0]:
        raise UserError(f"there is no image in {left}")
    return [Pair(path, views[1][name], name) for name, path in sorted(views[0].items())]


def _scene(folder: Path) -> tuple[Path, Path] | None:
    images = {path.stem.lower(): path for path in images_of(folder.iterdir())}
    for left, right in FILES:
        if left in images and right in images:
            return images[left], images[right]
    return None


def images_of(paths: Iterable[Path]) -> list[Path]:
    """Return those of `paths` that are images by their suffix and not hidden, sorted."""
    return sorted(path for path in paths if path.suffix.lower() in IMAGE_SUFFIXES and path.name[0] != ".")


def names_of(paths: list[Path]) -> list[str]:
    """Return the paths' `short_names`; UserError where one is given twice, or two would have one name."""
    names = short_names(paths)
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        one, other = [path for path, name in zip(paths, names, strict=True) if name == repeated[0]][:2]
        if one != other:
            raise UserError(f"{one} and {other} have one name; rename one")
        raise UserError(f"{one} is given more than once")
    return names
