"""Furnished rooms of natural size: what stands, stands on the floor; what hangs, hangs on a wall.

In the other styles things float, and are placed by their disparity: a stereo network has all it needs
there, a monocular one next to nothing. Here a camera is held at the height of a person's eyes or chest,
rooms, tables and chairs have the sizes that they have, and the place where a thing touches the floor tells
its distance.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from .cutouts import SOLID
from .frames import along, log_uniform, rotation_between
from .scene import FACES, LABELS, PLANE, Surroundings

if TYPE_CHECKING:
    from .compose import Composer

Triple = tuple[float, float, float]

_TRIES = 12
_PLAIN = (0.8, 0.8, 0.9, 0.6, 0.8, 0.8)  # chance of next to no texture, of the room's faces
_HANGING = np.array([[1.0, 0, 0], [0, -1, 0], [0, 0, -1]])  # a sheet's frame: its front looks into the room


@dataclass
class Spot:
    """Where a piece stands: a point of the floor or a wall, and its own axes (x along it, y down, z back)."""

    composer: Composer
    origin: np.ndarray  # (3,) metres
    rotation: np.ndarray  # (3, 3)

    def at(self, x: float, y: float, z: float) -> np.ndarray:
        return self.origin + self.rotation @ np.array([x, y, z])

    def put(self, middle: Triple, size: Triple, stuff: list[float]) -> None:
        """Add a box of `size` metres about `middle`."""
        self.composer.box(self.rotation, self.at(*middle), np.array(size) / 2, stuff)

    def roll(self, bottom: Triple, radius: float, tall: float, stuff: list[float]) -> None:
        """Add an upright cylinder that stands on `bottom`, open like a tin of which one sees the side."""
        x, y, z = bottom
        middle = self.at(x, y - tall / 2, z)
        self.composer.cylinder("tube", along(-self.rotation[:, 1]), middle, radius, tall / 2, stuff)

    def ball(self, middle: Triple, radii: np.ndarray, stuff: list[float]) -> None:
        """Add an ellipsoid."""
        self.composer.ellipsoid("ball", self.rotation, self.at(*middle), radii, stuff)


@dataclass
class Room:
    """The room that is being furnished: its box, and the circles of the floor that are taken."""

    composer: Composer
    around: Surroundings
    taken: list[tuple[float, float, float]] = field(default_factory=list)

    def point(self, local: np.ndarray) -> np.ndarray:
        """Return a point of the room's own frame in the camera's."""
        return self.around.rotation @ local + self.around.centre

    def sees(self, point: np.ndarray, reach: float) -> bool:
        """Return whether a piece within `reach` metres of `point` is in the picture and not too near."""
        composer = self.composer
        if point[2] - 1.4 * reach < composer.nearest:  # a piece's corners lie beyond its circle
            return False
        beyond = (np.abs(point[:2]) - reach) / point[2]
        return bool(beyond[0] < composer.half_x and beyond[1] < composer.half_y)

    def stand(self, reach: float, by_the_wall: float) -> Spot | None:
        """Return a free spot of the floor, with its back to a wall by the chance `by_the_wall`."""
        rng, half = self.composer.rng, self.around.half
        for _ in range(_TRIES):
            x, z = rng.uniform(-1, 1, 2) * (half[[0, 2]] - reach)
            yaw = rng.uniform(-math.pi, math.pi)
            if rng.random() < by_the_wall:
                side = int(rng.integers(4))
                yaw = side * math.pi / 2
                # The back, +z of the piece, is at +z, +x, -z or -x of the room.
                if side % 2:
                    x = (half[0] - reach * 0.5) * (2 - side)
                else:
                    z = (half[2] - reach * 0.5) * (1 - side)
            if any((x - a) ** 2 + (z - b) ** 2 < (reach + r) ** 2 * 0.8 for a, b, r in self.taken):
                continue
            origin = self.point(np.array([x, half[1], z]))
            if self.sees(origin, reach):
                self.taken.append((x, z, reach))
                return Spot(
                    self.composer, origin, self.around.rotation @ rotation_between(np.array([yaw, 0, 0]))
                )
        return None

    def hang(self, low: float, high: float) -> Spot | None:
        """Return a spot of a wall, `low` to `high` metres above the floor."""
        rng, half = self.composer.rng, self.around.half
        for _ in range(_TRIES):
            side = int(rng.integers(4))
            along_wall, height = rng.uniform(-0.85, 0.85), rng.uniform(low, high)
            if side % 2:
                x, z = (half[0] - 0.02) * (2 - side), along_wall * half[2]
            else:
                x, z = along_wall * half[0], (half[2] - 0.02) * (1 - side)
            origin = self.point(np.array([x, half[1] - height, z]))
            if self.sees(origin, 0.3):
                turned = rotation_between(np.array([side * math.pi / 2, 0, 0]))
                return Spot(self.composer, origin, self.around.rotation @ turned)
        return None


def room_around(composer: Composer) -> Surroundings:
    """Draw a room of natural size and where in it the camera is held."""
    rng = composer.rng
    best: tuple[float, Surroundings] | None = None
    for _ in range(_TRIES):
        wide, deep, high = rng.uniform(2.8, 7.0), rng.uniform(2.8, 9.0), rng.uniform(2.3, 3.2)
        eye = rng.uniform(0.8, 1.8)
        # The camera's place in the room and its angles: it looks where there is room, mostly a bit down.
        x, z = rng.uniform(-0.4, 0.4) * wide, rng.uniform(-0.45, 0.45) * deep
        yaw, pitch, roll = rng.uniform(-math.pi, math.pi), rng.normal(0.28, 0.2), rng.normal(0, 0.04)
        rotation = rotation_between(np.array([0, pitch, roll])) @ rotation_between(np.array([yaw, 0, 0]))
        half = np.array([wide, high, deep]) / 2
        camera = np.array([x, half[1] - eye, z])
        labels = [LABELS.index(name) for name in ("wall", "wall", "ceiling", "ground", "wall", "wall")]
        texels = np.array([log_uniform(rng, 60, 500) for _ in range(FACES)])
        texels[[1, 4, 5]] = texels[0]
        around = Surroundings(rotation, -rotation @ camera, half, np.array(labels), texels)
        nearest = composer.depth_at_corners(around)
        if best is None or nearest > best[0]:
            best = nearest, around
        if nearest >= composer.nearest and around.depth(np.zeros(1), np.zeros(1))[0] > rng.uniform(1.0, 4.0):
            return around
    assert best is not None
    return best[1]


def walls(composer: Composer, around: Surroundings) -> list[list[float]]:
    """Return a surface for each face: floor and ceiling their own, the walls mostly one and the same."""
    faces = [
        composer.material(float(texels), plain) for texels, plain in zip(around.texels, _PLAIN, strict=True)
    ]
    common = faces[0]
    return [common if k in (0, 1, 4, 5) and composer.rng.random() < 0.75 else faces[k] for k in range(FACES)]


def furnish(composer: Composer, around: Surroundings, clutter: float) -> None:
    """Put `clutter` times the usual number of pieces into the room."""
    rng, room = composer.rng, Room(composer, around)
    pieces = list(STANDING)
    shares = np.array([share for share, _, _ in STANDING.values()])
    for _ in range(round(clutter * rng.integers(4, 16))):
        piece = pieces[int(rng.choice(len(pieces), p=shares / shares.sum()))]
        _, reach, by_the_wall = STANDING[piece]
        if spot := room.stand(reach, by_the_wall):
            composer.start()
            piece(spot)
    for _ in range(round(clutter * rng.integers(0, 5))):
        if spot := room.hang(0.9, min(2.0, 2 * around.half[1] - 0.3)):
            composer.start()
            picture(spot)
    if rng.random() < 0.3 * min(clutter, 1) and (spot := room.stand(0.9, 0.0)):
        composer.start()
        rug(spot)
        room.taken.pop()


def stuff(spot: Spot, plain: float = 0.7) -> list[float]:
    """Draw a surface with a pattern of natural size, or next to none."""
    return spot.composer.material(log_uniform(spot.composer.rng, 100, 800), plain)


def table(spot: Spot) -> None:
    """A table, high or low, with things on it."""
    rng, wood = spot.composer.rng, stuff(spot)
    wide, deep = rng.uniform(0.6, 1.6), rng.uniform(0.5, 0.9)
    high = rng.uniform(0.68, 0.8) if rng.random() < 0.7 else rng.uniform(0.35, 0.5)
    thick, leg = rng.uniform(0.02, 0.06), rng.uniform(0.03, 0.08)
    spot.put((0, -high, 0), (wide, thick, deep), wood)
    for x in (-1, 1):
        for z in (-1, 1):
            middle = (x * (wide - leg) / 2, -high / 2, z * (deep - leg) / 2)
            spot.put(middle, (leg, high, leg), wood)
    for _ in range(int(rng.integers(0, 5))):
        small(spot, rng.uniform(-0.4, 0.4) * wide, -high - thick / 2, rng.uniform(-0.4, 0.4) * deep, 0.25)


def chair(spot: Spot) -> None:
    """A chair or a stool."""
    rng, wood = spot.composer.rng, stuff(spot)
    seat, side, leg = rng.uniform(0.42, 0.5), rng.uniform(0.38, 0.5), rng.uniform(0.025, 0.05)
    spot.put(
        (0, -seat, 0), (side, rng.uniform(0.02, 0.08), side), wood if rng.random() < 0.5 else stuff(spot)
    )
    for x in (-1, 1):
        for z in (-1, 1):
            spot.put((x * (side - leg) / 2, -seat / 2, z * (side - leg) / 2), (leg, seat, leg), wood)
    if rng.random() < 0.8:
        back = rng.uniform(0.35, 0.55)
        if rng.random() < 0.5:
            spot.put((0, -seat - back / 2, side / 2), (side, back, leg), wood)
            return
        slats = int(rng.integers(2, 6))
        for x in np.linspace(-1, 1, slats) * (side - leg) / 2:
            spot.put((float(x), -seat - back / 2, side / 2), (leg, back, leg), wood)
        spot.put((0, -seat - back, side / 2), (side, 2 * leg, leg), wood)


def sofa(spot: Spot) -> None:
    """A sofa, an armchair or a bed: a block, with or without back and arms."""
    rng, cloth = spot.composer.rng, stuff(spot)
    wide, deep, seat = rng.uniform(0.7, 1.9), rng.uniform(0.7, 1.0), rng.uniform(0.35, 0.5)
    spot.put((0, -seat / 2, 0), (wide, seat, deep), cloth)
    if rng.random() < 0.75:
        back, arm = rng.uniform(0.3, 0.5), rng.uniform(0.1, 0.2)
        spot.put((0, -seat - back / 2, deep / 2 - 0.1), (wide, back, 0.2), cloth)
        for x in (-1, 1):
            spot.put((x * (wide / 2 + arm / 2), -(seat + 0.2) / 2, 0), (arm, seat + 0.2, deep), cloth)
    for _ in range(int(rng.integers(0, 3))):
        radii = np.array([rng.uniform(0.15, 0.25), rng.uniform(0.06, 0.12), rng.uniform(0.12, 0.2)])
        spot.ball((rng.uniform(-0.4, 0.4) * wide, -seat - radii[1], 0), radii, stuff(spot))


def cupboard(spot: Spot) -> None:
    """A cupboard, a chest of drawers, a refrigerator: a box whose front is divided."""
    rng, wood = spot.composer.rng, stuff(spot)
    wide, deep, high = rng.uniform(0.4, 1.4), rng.uniform(0.3, 0.65), log_uniform(rng, 0.5, 2.1)
    spot.put((0, -high / 2, 0), (wide, high, deep), wood)
    front, columns, rows = stuff(spot), int(rng.integers(1, 4)), int(rng.integers(1, 4))
    for i in range(columns):
        for k in range(rows):
            x = (i + 0.5) / columns - 0.5
            middle = (x * wide, -high * (k + 0.5) / rows, -deep / 2)
            spot.put(middle, (0.9 * wide / columns, 0.92 * high / rows, 0.03), front)
    if rng.random() < 0.5:
        for _ in range(int(rng.integers(1, 4))):
            small(spot, rng.uniform(-0.4, 0.4) * wide, -high, 0.0, 0.3)


def shelves(spot: Spot) -> None:
    """A shelf with books and things."""
    rng, wood = spot.composer.rng, stuff(spot)
    wide, deep, high = rng.uniform(0.5, 1.5), rng.uniform(0.2, 0.4), rng.uniform(0.8, 2.1)
    boards = int(rng.integers(3, 6))
    for side in (-1, 1):
        spot.put((side * wide / 2, -high / 2, 0), (0.03, high, deep), wood)
    if rng.random() < 0.6:
        spot.put((0, -high / 2, deep / 2), (wide, high, 0.02), wood)
    step = high / (boards - 1)
    for k in range(boards):
        spot.put((0, -k * step - 0.015, 0), (wide, 0.03, deep), wood)
        if k == boards - 1 or rng.random() < 0.25:
            continue
        x = -wide / 2 + 0.05
        while x < wide / 2 - 0.1:
            thick, tall = rng.uniform(0.02, 0.12), step * rng.uniform(0.4, 0.85)
            spot.put(
                (x + thick / 2, -k * step - 0.03 - tall / 2, 0),
                (thick, tall, deep * rng.uniform(0.5, 0.9)),
                stuff(spot),
            )
            x += thick * rng.uniform(1.0, 2.2)


def lamp(spot: Spot) -> None:
    """A lamp on a stand."""
    rng, metal = spot.composer.rng, stuff(spot, 0.8)
    high, radius = rng.uniform(1.2, 1.9), rng.uniform(0.12, 0.25)
    spot.roll((0, 0, 0), radius * 0.8, 0.03, metal)
    spot.roll((0, 0, 0), 0.015, high, metal)
    spot.roll((0, -high + 0.15, 0), radius, rng.uniform(0.2, 0.35), stuff(spot, 0.8))


def pot(spot: Spot) -> None:
    """A plant in a pot."""
    rng, composer = spot.composer.rng, spot.composer
    radius, tall = rng.uniform(0.1, 0.2), rng.uniform(0.2, 0.4)
    spot.roll((0, 0, 0), radius, tall, stuff(spot))
    green, size = stuff(spot, 0.3), rng.uniform(0.2, 0.45)
    for _ in range(int(rng.integers(5, 14))):
        x, y, z = rng.normal(0, 0.5, 3) * size
        extent = size * rng.uniform(0.3, 0.6) * np.array([1.0, rng.uniform(0.4, 1.0), 0])
        leaf = rotation_between(rng.uniform(-math.pi, math.pi, 3))
        middle = spot.at(x, min(y, -0.15 * size) - tall - 0.7 * size, z)
        cutout = int(rng.integers(*SOLID))
        composer.add(PLANE, "plant", leaf, middle, -extent, extent, green, cutout=cutout)


def heap(spot: Spot) -> None:
    """Things on the floor: boxes, tins, balls."""
    rng = spot.composer.rng
    for _ in range(int(rng.integers(1, 4))):
        small(spot, rng.uniform(-0.3, 0.3), 0.0, rng.uniform(-0.3, 0.3), 0.5)


def small(spot: Spot, x: float, y: float, z: float, largest: float) -> None:
    """Stand a thing of up to `largest` metres on (x, y, z)."""
    rng, way = spot.composer.rng, spot.composer.rng.random()
    if way < 0.5:
        wide, tall, deep = (rng.uniform(0.15, 1.0, 3) * largest).tolist()
        spot.put((x, y - tall / 2, z), (wide, tall, deep), stuff(spot))
    elif way < 0.8:
        spot.roll((x, y, z), largest * rng.uniform(0.1, 0.35), largest * rng.uniform(0.3, 1.0), stuff(spot))
    else:
        radius = largest * rng.uniform(0.15, 0.5)
        spot.ball((x, y - radius, z), np.full(3, radius), stuff(spot))


def picture(spot: Spot) -> None:
    """A picture, a window or a door leaf on a wall, with a frame around it or none."""
    rng = spot.composer.rng
    half = np.array([rng.uniform(0.15, 0.7), rng.uniform(0.15, 0.5), 0])
    if rng.random() < 0.5:
        spot.put((0, 0, 0), (2.15 * half[0], 2.15 * half[1], 0.03), stuff(spot, 0.8))
    sheet = spot.rotation @ _HANGING
    surface = stuff(spot, 0.2)
    spot.composer.add(PLANE, "panel", sheet, spot.at(0, 0, -0.02), -half, half, surface)


def rug(spot: Spot) -> None:
    """A rug, a centimetre thick."""
    rng = spot.composer.rng
    spot.put((0, -0.005, 0), (rng.uniform(0.8, 1.8), 0.01, rng.uniform(0.6, 1.4)), stuff(spot, 0.2))


#: Pieces that stand: how often, what circle of the floor they take (m), and how often by a wall.
STANDING: dict[Callable[[Spot], None], tuple[float, float, float]] = {
    table: (2.0, 0.65, 0.3),
    chair: (3.0, 0.35, 0.2),
    sofa: (1.5, 0.9, 0.7),
    cupboard: (2.5, 0.55, 0.9),
    shelves: (1.5, 0.5, 0.9),
    lamp: (0.7, 0.25, 0.6),
    pot: (0.8, 0.35, 0.6),
    heap: (1.5, 0.4, 0.2),
}
