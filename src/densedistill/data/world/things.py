"""What scenes are furnished with: each function adds one thing at a place, about `size` px large."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .cutouts import DISC, SOLID, THIN
from .frames import along, any_rotation, facing, log_uniform, rotation_between
from .scene import PLANE, QUADRIC

if TYPE_CHECKING:
    from .compose import Composer


@dataclass
class Place:
    """Where something goes: its direction, depth and the size of a pixel there."""

    ray: np.ndarray  # (3,) (x, y, 1)
    depth: float
    pixel: float  # metres

    @property
    def point(self) -> np.ndarray:
        return self.ray * self.depth


def panel(composer: Composer, place: Place, size: float) -> None:
    """A flat cut-out or rectangle, tilted anywhither."""
    rng = composer.rng
    half = size / 2 * place.pixel
    aspect = log_uniform(rng, 0.4, 2.5)
    spin = rng.uniform(0, 2 * math.pi) if rng.random() < 0.5 else 0.0
    rotation = facing(rng, min(abs(rng.normal(0, 0.6)), 1.3), spin)
    extent = np.array([half * math.sqrt(aspect), half / math.sqrt(aspect), 0])
    way = rng.random()
    label, cutout = "panel", -1
    if way < 0.45:
        cutout = int(rng.integers(*SOLID))
    elif way < 0.7:
        cutout, label, extent = int(rng.integers(*THIN)), "thin", extent * 1.3
    surface = composer.material(composer.density(place))
    composer.add(PLANE, label, rotation, place.point, -extent, extent, surface, cutout=cutout)


def screen(composer: Composer, place: Place) -> None:
    """A large slanted or gently bent sheet at some distance: a wall, a door, a cloth."""
    rng = composer.rng
    depth = min(place.depth * rng.uniform(1.0, 2.5), 0.95 * composer.scale / composer.far_disparity)
    place = Place(place.ray, depth, depth / composer.focal)
    size = composer.height * rng.uniform(0.6, 1.6)
    if rng.random() < 0.4:
        bent(composer, place, size)
        return
    half = size / 2 * place.pixel * np.array([log_uniform(rng, 0.5, 1.5), log_uniform(rng, 0.5, 1.5), 0])
    rotation = facing(rng, min(abs(rng.normal(0, 0.7)), 1.3), rng.choice([0.0, rng.normal(0, 0.3)]))
    cutout = int(rng.integers(*SOLID)) if rng.random() < 0.15 else -1
    composer.add(
        PLANE,
        "panel",
        rotation,
        place.point,
        -half,
        half,
        composer.material(composer.density(place), 0.2),
        cutout=cutout,
    )


def bent(composer: Composer, place: Place, size: float) -> None:
    """A bent sheet: a piece of a parabolic trough, bowl or saddle, with or without cut-out."""
    rng = composer.rng
    half = size / 2 * place.pixel
    aspect = log_uniform(rng, 0.5, 2)
    rotation = facing(rng, min(abs(rng.normal(0, 0.6)), 1.2), rng.uniform(0, 2 * math.pi))
    x, y = half * math.sqrt(aspect), half / math.sqrt(aspect)
    depth = half * rng.uniform(0.1, 1.0)
    bend = np.array([rng.choice([-1, 1]) * depth / x**2, rng.choice([0, 0, -1, 1]) * depth / y**2])
    ends = bend * [x * x, y * y]
    low = [-x, -y, np.minimum(ends, 0).sum() - 1e-3 * half]
    high = [x, y, np.maximum(ends, 0).sum() + 1e-3 * half]
    cutout = -1
    if rng.random() < 0.4:
        cutout = int(rng.integers(*SOLID))
    elif rng.random() < 0.15:
        cutout = int(rng.integers(*THIN))
    surface = composer.material(composer.density(place))
    square = (float(bend[0]), float(bend[1]), 0.0)
    composer.add(QUADRIC, "panel", rotation, place.point, low, high, surface, square, -1.0, 0.0, cutout)


def ball(composer: Composer, place: Place, size: float) -> None:
    """An ellipsoid, or a bowl cut from one."""
    rng = composer.rng
    radii = size / 2 * place.pixel * rng.uniform(0.45, 1.0, 3)
    if rng.random() < 0.4:
        radii[:] = radii.max()
    rotation, surface = any_rotation(rng), composer.material(composer.density(place))
    if rng.random() < 0.75:
        composer.ellipsoid("ball", rotation, place.point, radii, surface)
    else:
        high, square = radii * [1, 1, rng.uniform(-0.3, 0.8)], tuple(1 / radii**2)
        composer.add(QUADRIC, "ball", rotation, place.point, -radii, high, surface, square, 0.0, -1.0)


def tube(composer: Composer, place: Place, size: float) -> None:
    """A cylinder with lids or without, a cone, or a waisted vase."""
    rng = composer.rng
    length = size / 2 * place.pixel
    radius = length * log_uniform(rng, 0.15, 1.0)
    upright = -composer.upright[:, 1] + rng.normal(0, 0.1, 3)
    rotation = along(upright if rng.random() < 0.6 else rng.standard_normal(3))
    surface = composer.material(composer.density(place))
    way, low = rng.random(), -length
    if way < 0.55:
        square, constant, width = (radius**-2, radius**-2, 0.0), -1.0, radius
    elif way < 0.85:  # the tip at the top, z = 0 there
        slope = radius / (2 * length)
        square, constant, width = (slope**-2, slope**-2, -1.0), 0.0, radius
        low = -2 * length
    else:
        waist = radius * rng.uniform(0.4, 0.8)
        flare = length / math.sqrt((radius / waist) ** 2 - 1)
        square, constant, width = (waist**-2, waist**-2, -(flare**-2)), -1.0, radius
    high = 0.0 if low < -length else length
    extent = np.array([width, width, 0])
    composer.add(
        QUADRIC,
        "tube",
        rotation,
        place.point,
        [-width, -width, low],
        [width, width, high],
        surface,
        square,
        0.0,
        constant,
    )
    if way < 0.55 and rng.random() < 0.8:
        # The disc fills 96 % of its cut-out.
        middle, lid = composer.rows["centre"][-1], extent / 0.96
        for end in (-length, length):
            at = middle + rotation[:, 2] * end
            composer.add(PLANE, "tube", rotation, at, -lid, lid, surface, cutout=DISC)


def box(composer: Composer, place: Place, size: float) -> None:
    """A box of any proportions, upright more often than not."""
    rng = composer.rng
    half = size / 2 * place.pixel * rng.uniform(0.25, 1.0, 3)
    rotation = composer.standing(0.05) if rng.random() < 0.6 else any_rotation(rng)
    composer.box(rotation, place.point, half, composer.material(composer.density(place)))


def rod(
    composer: Composer,
    start: np.ndarray,
    end: np.ndarray,
    radius: float,
    surface: list[float],
    label: str = "thin",
) -> None:
    """A thin cylinder between two points, in pieces so that its bounds on the screen stay small."""
    length = float(np.linalg.norm(end - start))
    across = np.abs((end / end[2] - start / start[2])[:2]) * composer.focal
    pieces = 1 + int(min(across.min() / 25, 5))
    rotation = along(end - start)
    half = length / pieces / 2
    for k in range(pieces):
        centre = start + (end - start) * ((k + 0.5) / pieces)
        composer.cylinder(label, rotation, centre, radius, half, surface)


def pole(composer: Composer, place: Place, size: float) -> None:
    """A wire, stick or post across a good part of the picture."""
    rng = composer.rng
    length = composer.height * rng.uniform(0.2, 1.2) * place.pixel / 2
    way = rng.standard_normal(3) * [1, 1, 0.5] if rng.random() < 0.6 else np.array([0.02, 1.0, 0.05])
    reach = way / np.linalg.norm(way) * length
    reach[2] = np.clip(reach[2], -0.4 * (place.depth - composer.nearest), 0.4 * place.depth)
    radius = log_uniform(rng, 0.6, 5) * place.pixel
    rod(
        composer,
        place.point - reach,
        place.point + reach,
        radius,
        composer.material(composer.density(place), 0.5),
    )


def skeleton(composer: Composer, place: Place, size: float) -> None:
    """Rods from joint to joint: a stool, a bicycle, a scaffold."""
    rng = composer.rng
    size = max(size, 0.2 * composer.height)
    half = size * place.pixel * 0.6
    joints = place.point + rng.uniform(-half, half, (int(rng.integers(4, 8)), 3))
    joints[:, 2] = np.maximum(joints[:, 2], composer.nearest * 1.02)
    radius = log_uniform(rng, 0.8, 4) * place.pixel
    surface = composer.material(composer.density(place), 0.5)
    for k in range(1, len(joints)):
        rod(composer, joints[int(rng.integers(k))], joints[k], radius, surface)
        if rng.random() < 0.35 and k > 1:
            rod(composer, joints[int(rng.integers(k - 1))], joints[k], radius, surface)


def row(composer: Composer, place: Place, size: float) -> None:
    """Things side by side: books on a shelf, bars, a stair."""
    rng = composer.rng
    half = size / 2 * place.pixel
    rotation = composer.standing(0.05)
    if rng.random() < 0.4:
        rotation = rotation @ rotation_between(np.array([0, 0, math.pi / 2]))
    at = -half
    while at < half:
        width = half * rng.uniform(0.06, 0.2)
        extent = np.array([width, half * rng.uniform(0.4, 0.7), half * rng.uniform(0.3, 0.5)])
        centre = place.point + rotation @ np.array([at + width, 0.6 * half - extent[1], 0.0])
        composer.box(rotation, centre, extent, composer.material(composer.density(place)))
        at += 2 * width * rng.uniform(1.0, 1.4)


def furniture(composer: Composer, place: Place, size: float) -> None:
    """A slab on legs, with or without a back of slats: a table, a stool, a chair."""
    rng = composer.rng
    half = max(size, 0.25 * composer.height) / 2 * place.pixel
    rotation, surface = composer.standing(0.03), composer.material(composer.density(place), 0.4)
    wide, deep, high = (
        half * rng.uniform(0.5, 1.2),
        half * rng.uniform(0.4, 1.0),
        half * rng.uniform(0.5, 1.1),
    )
    thick = half * rng.uniform(0.03, 0.1)
    put = lambda at, half: composer.box(
        rotation, place.point + rotation @ np.array(at), np.array(half), surface
    )
    put([0, 0, 0], [wide, thick, deep])
    leg = half * rng.uniform(0.025, 0.08)
    for x in (-1, 1):
        for z in (-1, 1):
            put([x * (wide - leg), high / 2, z * (deep - leg)], [leg, high / 2, leg])
    if rng.random() < 0.6:
        slats, tall = int(rng.integers(2, 7)), high * rng.uniform(0.6, 1.2)
        for x in np.linspace(-1, 1, slats) * (wide - leg):
            put([x, -tall / 2, deep - leg], [leg, tall / 2, leg * 0.6])
        put([0, -tall, deep - leg], [wide, leg, leg])


def shelves(composer: Composer, place: Place, size: float) -> None:
    """Boards one above the other, with things on them."""
    rng = composer.rng
    half = max(size, 0.4 * composer.height) * 0.6 * place.pixel
    rotation, surface = composer.standing(0.02, 0.6), composer.material(composer.density(place), 0.4)
    wide, deep, step = (
        half * rng.uniform(0.6, 1.5),
        half * rng.uniform(0.2, 0.4),
        half * rng.uniform(0.4, 0.8),
    )
    count = int(rng.integers(2, 4))
    for level in range(count):
        height = (level - (count - 1) / 2) * step
        at = lambda x, y, z, height=height: place.point + rotation @ np.array([x, height + y, z])
        composer.box(rotation, at(0, 0, 0), np.array([wide, half * 0.025, deep]), surface)
        x = -wide
        while x < wide:
            width, tall = half * rng.uniform(0.04, 0.2), step * rng.uniform(0.25, 0.45)
            middle = at(x + width, -tall - half * 0.025, rng.uniform(-0.3, 0.3) * deep)
            stuff = composer.material(composer.density(place))
            if rng.random() < 0.7:
                extent = np.array([width, tall, deep * rng.uniform(0.4, 0.7)])
                composer.box(rotation, middle, extent, stuff)
            else:
                upright = rotation @ np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]]).T
                composer.cylinder("tube", upright, middle, width, tall, stuff)
            x += 2 * width * rng.uniform(1.0, 2.0)


def pipes(composer: Composer, place: Place, size: float) -> None:
    """Thick tubes along the axes of a frame, joined by balls: pipes, handrails, branches."""
    rng = composer.rng
    half = max(size, 0.4 * composer.height) * place.pixel
    radius = half * log_uniform(rng, 0.03, 0.15)
    rotation, surface = composer.standing(0.05), composer.material(composer.density(place), 0.3)
    at, before = place.point.copy(), -1
    for _ in range(int(rng.integers(3, 7))):
        axis = int(rng.choice([k for k in range(3) if k != before]))
        way = rotation[:, axis] * rng.choice([-1, 1]) * half * rng.uniform(0.3, 1.0)
        end = at + way
        if end[2] < composer.nearest * 1.05 + radius:
            end = at - way
        before = axis
        rod(composer, at, end, radius, surface, "tube")
        composer.ellipsoid("tube", rotation, end, np.full(3, radius * rng.choice([1.0, 1.3])), surface)
        at = end


def plant(composer: Composer, place: Place, size: float) -> None:
    """Leaves and twigs around a point."""
    rng = composer.rng
    half = max(size, 0.12 * composer.height) / 2 * place.pixel
    surface = composer.material(composer.density(place), 0.3)
    thin = rng.random() < 0.4
    for _ in range(int(rng.integers(5, 14))):
        centre = place.point + rng.normal(0, 0.5, 3) * half
        centre[2] = max(centre[2], composer.nearest * 1.05)
        extent = half * rng.uniform(0.3, 0.6) * np.array([1.0, rng.uniform(0.4, 1.0), 0])
        cutout = int(rng.integers(*THIN)) if thin else int(rng.integers(*SOLID))
        rotation = facing(rng, abs(rng.normal(0, 0.7)) % 1.3, rng.uniform(0, 6.3))
        composer.add(PLANE, "plant", rotation, centre, -extent, extent, surface, cutout=cutout)


# How often things are drawn, before each scene's own taste.
THINGS = {
    panel: 6.0,
    bent: 4.0,
    ball: 4.0,
    tube: 4.0,
    box: 4.0,
    pole: 2.0,
    skeleton: 1.2,
    row: 0.8,
    plant: 0.8,
    furniture: 0.8,
    shelves: 0.5,
    pipes: 0.8,
}
