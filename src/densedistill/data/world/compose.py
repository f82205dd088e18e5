"""Random scenes: what stands where, how large, of which shape and stuff, under which light. Pure numpy,
by generator.

Things are placed by where they appear in the picture and by their disparity, so that every scene uses the
range of disparities up to `max_disparity` and none exceeds it: the nearest corner of everything lies
beyond focal * baseline / max_disparity.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from . import interior
from .bank import PATTERN_COUNT, PHOTO_FIRST, TEXTURE_COUNT
from .frames import along, any_rotation, log_uniform, rotation_between, turn
from .scene import (
    BOX,
    ELLIPSOID,
    FACES,
    LABELS,
    PLANE,
    QUADRIC,
    SURFACE_FIELDS,
    Light,
    Scene,
    Surroundings,
)
from .things import THINGS, Place, screen

STYLES = ("clutter", "room", "table", "outdoor", "interior")
_STYLE_WEIGHTS = (0.25, 0.3, 0.3, 0.15, 0.0)  # interiors only where they are asked for
_BASELINE = 0.16  # metres; only sets the scale of depth
_MARGIN = 1.02  # how far beyond the nearest allowed depth things keep


class Composer:
    """Draws one scene; `compose` is its public face."""

    def __init__(
        self,
        rng: np.random.Generator,
        height: int,
        width: int,
        max_disparity: float,
        focal: float | None,
        haze: float,
        mirrors: float,
    ):
        self.rng, self.haze = rng, haze
        # Of a scene that has glossy or mirroring surfaces at all, a fair part is.
        self.gloss = 0.4 if rng.random() < 0.6 else 0.0
        self.mirrors = 0.25 if rng.random() < mirrors else 0.0
        self.height, self.width = height, width
        self.focal = focal or width * float(rng.uniform(0.8, 1.5))
        self.baseline = _BASELINE
        self.scale = self.focal * self.baseline
        self.max_disparity = max_disparity
        self.nearest = self.scale / max_disparity * _MARGIN
        self.half_x, self.half_y = width / 2 / self.focal, height / 2 / self.focal
        # Some scenes use the whole range, others only its lower part, as real ones do.
        self.near_disparity = max_disparity * rng.uniform(0.5, 1.0)
        self.far_disparity = self.near_disparity * rng.uniform(0.06, 0.65)
        self.upright = np.eye(3)
        self.rows: dict[str, list] = {
            key: []
            for key in (
                *("kind", "rotation", "centre", "square", "linear", "constant", "low", "high"),
                *("cutout", "map", "labels", "objects", "surface"),
            )
        }
        self.objects = 0

    def material(self, texels: float, plain: float = 0.12, lit: float = 1.0) -> list[float]:
        """Draw a surface; `texels` a metre, `plain` the chance of next to no texture."""
        rng = self.rng
        photo = rng.random() < 0.42
        texture = int(rng.integers(PHOTO_FIRST, TEXTURE_COUNT) if photo else rng.integers(0, PATTERN_COUNT))
        gain, bias = np.ones(3), np.zeros(3)
        way = rng.random()
        if way < 0.45:  # a tint, more or less contrast
            contrast = rng.uniform(0.5, 1.5)
            tint = rng.uniform(0.5, 1.2) * (1 - rng.uniform(0, 0.6) * rng.random(3))
            gain, bias = tint * contrast, tint * (1 - contrast) * rng.uniform(0.2, 0.7)
        elif way < 0.6:  # upside down
            gain, bias = -rng.uniform(0.5, 1.0, 3), rng.uniform(0.8, 1.1, 3)
        if rng.random() < plain:
            fade = rng.uniform(0, 0.15) if rng.random() < 0.5 else 0.0
            tint = rng.uniform(0.1, 0.9) * (1 - rng.uniform(0, 0.5) * rng.random(3))
            gain, bias = gain * fade, tint
        angle, shrink = rng.uniform(0, 2 * math.pi), log_uniform(rng, 0.2, 5)
        weight = rng.uniform(0.2, 1.5) if rng.random() < 0.6 else 0.0
        shiny = rng.uniform(0.1, 0.7) if rng.random() < self.gloss else 0.0
        mirror = rng.uniform(0.05, 0.35) if rng.random() < self.mirrors else 0.0
        lod = math.log2(texels)
        return [
            texture,
            lod,
            *gain,
            *bias,
            int(rng.integers(0, TEXTURE_COUNT)),
            weight,
            shrink * math.cos(angle),
            shrink * math.sin(angle),
            lod + math.log2(shrink),
            shiny * lit,
            mirror * lit,
            lit,
        ]

    def density(self, place: Place) -> float:
        """Draw texels a metre so that a texel is between a quarter of a pixel and two pixels large there."""
        return log_uniform(self.rng, 0.5, 4) / place.pixel

    def start(self) -> None:
        """Begin a new object; what is added from here on belongs to it."""
        self.objects += 1

    def add(
        self,
        kind: int,
        label: str,
        rotation: np.ndarray,
        centre: np.ndarray,
        low: ArrayLike,
        high: ArrayLike,
        surface: list[float],
        square: tuple[float, float, float] = (0, 0, 0),
        linear: float = 0.0,
        constant: float = 0.0,
        cutout: int = -1,
    ) -> None:
        """Add a primitive, pushed back along its ray where it would come too near."""
        lower, upper = np.asarray(low, float), np.asarray(high, float)
        reach = np.maximum(-rotation[2] * lower, -rotation[2] * upper).sum()
        if centre[2] - reach < self.nearest:
            centre = centre * ((self.nearest + reach) / centre[2])
        texels = 2.0 ** surface[1]
        if kind == PLANE:
            linear = 1.0  # its normal is its z axis
        rng = self.rng
        texture_map = np.zeros((2, 4))
        if kind in (PLANE, BOX) or (kind == QUADRIC and linear):
            quarter = rng.integers(4) * math.pi / 2
            cosine, sine = math.cos(quarter), math.sin(quarter)
            texture_map[:, :2] = [[cosine, sine], [-sine, cosine]]
        else:
            # Curved all round: project along about the line of sight.
            axes = rotation.T @ turn(rng.standard_normal(3), rng.uniform(0, 0.6)) @ along(centre)
            texture_map[:, :3] = axes[:, :2].T
        texture_map *= texels
        texture_map[:, 3] = rng.uniform(-256, 256, 2)
        values = (kind, rotation, centre, square, linear, constant, lower, upper, cutout, texture_map)
        for key, value in zip(self.rows, (*values, LABELS.index(label), self.objects, surface), strict=True):
            self.rows[key].append(value)

    def box(self, rotation: np.ndarray, middle: np.ndarray, half: np.ndarray, surface: list[float]) -> None:
        """Add a box that reaches `half` (3,) metres from its middle."""
        self.add(BOX, "box", rotation, middle, -half, half, surface)

    def ellipsoid(
        self, label: str, rotation: np.ndarray, middle: np.ndarray, radii: np.ndarray, surface: list[float]
    ) -> None:
        """Add an ellipsoid of `radii` (3,) metres."""
        self.add(ELLIPSOID, label, rotation, middle, -radii, radii, surface, tuple(1 / radii**2), 0.0, -1.0)

    def cylinder(
        self,
        label: str,
        rotation: np.ndarray,
        middle: np.ndarray,
        radius: float,
        half: float,
        surface: list[float],
    ) -> None:
        """Add a cylinder, open at its ends, that reaches `half` metres up and down its z axis."""
        extent = np.array([radius, radius, half])
        square = (radius**-2, radius**-2, 0.0)
        self.add(QUADRIC, label, rotation, middle, -extent, extent, surface, square, 0.0, -1.0)

    def place(self, around: Surroundings) -> Place:
        """Draw a place in view, in front of the surroundings."""
        rng = self.rng
        x, y = rng.uniform(-1.1, 1.1) * self.half_x, rng.uniform(-1.1, 1.1) * self.half_y
        ray = np.array([x, y, 1.0])
        behind = self.scale / float(around.depth(np.array(x), np.array(y)))
        low, high = max(behind, self.far_disparity * 0.5) * 1.02, max(self.near_disparity, behind * 1.05)
        way = rng.random()
        if way < 0.35:
            disparity = behind * rng.uniform(1.02, 1.5)
        elif way < 0.55:
            disparity = log_uniform(rng, low, high)
        else:
            disparity = rng.uniform(low, high)
        depth = self.scale / min(disparity, self.max_disparity / _MARGIN)
        return Place(ray, depth, depth / self.focal)

    def extent(self, low: float = 0.1, high: float = 1.0) -> float:
        """Draw an apparent size in px: mostly small, seldom large."""
        return self.height * float(np.clip(low * self.rng.random() ** -0.7, low, high))

    def standing(self, tilt: float, yaw: float = math.pi) -> np.ndarray:
        """Return an upright frame (y down, as the scene's ground has it) turned about the vertical."""
        rng = self.rng
        return self.upright @ rotation_between(np.array([rng.uniform(-yaw, yaw), *rng.normal(0, tilt, 2)]))

    def surroundings(self, style: str) -> Surroundings:
        """Draw the box around everything, so large that no pixel exceeds the largest disparity."""
        rng = self.rng
        if style == "interior":
            return self.widened(interior.room_around(self))
        far = self.scale / self.far_disparity
        if style == "outdoor":
            ground = self.half_y * self.scale / (self.max_disparity * rng.uniform(0.2, 0.9))
            sky = self.scale / rng.uniform(0.05, 0.6)
            low, high = np.array([-sky, -sky, -sky]), np.array([sky, ground, sky])
            angles = np.array([rng.uniform(-3, 3), rng.normal(0, 0.07), rng.normal(0, 0.03)])
        elif style == "room":
            side = lambda tight, wide: far * self.half_x * rng.uniform(tight, wide)
            low = np.array([-side(0.2, 1.5), -far * self.half_y * rng.uniform(0.4, 2.5), -far])
            high = np.array([side(0.2, 1.5), far * self.half_y * rng.uniform(0.1, 1.0), far])
            angles = np.array([rng.normal(0, 0.5), rng.normal(0, 0.12), rng.normal(0, 0.05)])
        elif style == "table":  # looking down on a plane, a wall behind
            low, high = np.full(3, -far * 30), np.array([far * 30, 0.0, far * rng.uniform(1.0, 2.0)])
            pitch = rng.uniform(0.05, 1.0)
            steep = self.half_y * math.cos(pitch) + math.sin(pitch)
            high[1] = self.scale / (self.near_disparity * rng.uniform(0.4, 0.9)) * steep
            angles = np.array([rng.normal(0, 0.4), pitch, rng.normal(0, 0.06)])
        else:  # one wall, slanted anywhither
            low, high = np.full(3, -far * 30), np.array([far * 30, far * 30, far])
            angles = rng.normal(0, 0.5, 3) * [1, 0.7, 0.5]
            if rng.random() < 0.4:
                high[1] = far * self.half_y * rng.uniform(0.2, 0.9)
        rotation = rotation_between(np.clip(angles, -3.1, 3.1))
        labels = ["wall", "wall", "ceiling", "ground", "wall", "wall"]
        if style == "outdoor":
            labels = ["sky", "sky", "sky", "ground", "sky", "sky"]
        around = Surroundings(
            rotation,
            rotation @ ((low + high) / 2),
            (high - low) / 2,
            np.array([LABELS.index(name) for name in labels]),
            np.ones(FACES),
        )
        around = self.widened(around)
        distance = around.half + np.abs(rotation.T @ around.centre) * [-1, -1, -1]
        pixel = np.repeat(np.clip(distance, self.nearest, 2 * far), 2) / self.focal
        around.texels = np.array([log_uniform(rng, 0.5, 4) / p for p in pixel])
        return around

    def depth_at_corners(self, around: Surroundings) -> float:
        """Return the least depth of `around` in either view.

        1/depth over the picture is the largest of planes, so it is largest in a corner; the right view sees a
        bit more.
        """
        x = np.array([-1, 1, -1, 1]) * (self.half_x + self.baseline / self.nearest)
        y = np.array([-1, -1, 1, 1]) * self.half_y
        return float(around.depth(x, y).min())

    def widened(self, around: Surroundings) -> Surroundings:
        """Return `around`, enlarged about the camera where it would come too near."""
        grow = max(1.0, self.nearest / self.depth_at_corners(around))
        around.centre, around.half = around.centre * grow, around.half * grow
        return around

    def light(self) -> Light:
        """Draw sun, ambient light, shadow mask, mirrored surroundings and haze."""
        rng = self.rng
        direction = rng.standard_normal(3) * [1, 0.7, 0.7] + [0, -0.8, -0.7]
        far = self.scale / self.far_disparity
        texels = log_uniform(rng, 60, 400) / (far * self.half_x)
        axes = along(direction)[:, :2].T * texels
        haze = rng.uniform(0.1, 0.9) / far if rng.random() < self.haze else 0.0
        return Light(
            direction / np.linalg.norm(direction),
            float(rng.uniform(0.25, 0.8)),
            int(rng.integers(0, TEXTURE_COUNT)),
            axes,
            float(rng.uniform(1.0, 3.5)),
            float(rng.choice([0.0, rng.uniform(0.3, 1.0)])),
            int(rng.integers(PHOTO_FIRST, TEXTURE_COUNT)),
            haze,
            rng.uniform(0.5, 0.95) * (1 - 0.15 * rng.random(3)),
        )

    def compose(self, style: str | None = None, clutter: float = 1.0) -> Scene:
        """Draw the scene, with `clutter` times as many things as usual."""
        rng = self.rng
        style = style or str(rng.choice(STYLES, p=_STYLE_WEIGHTS))
        around = self.surroundings(style)
        self.upright = around.rotation if style != "clutter" else any_rotation(rng)
        if style == "interior":
            faces = interior.walls(self, around)
            interior.furnish(self, around, clutter)
            return self.finish(style, around, faces)
        faces = [self.material(texels, 0.25, 1.0) for texels in around.texels]
        if style == "outdoor":
            around.texels[[0, 1, 2, 4, 5]] = around.texels[0]
            sky = self.material(float(around.texels[0]), 0.5, 0.0)
            faces = [faces[k] if k == 3 else sky for k in range(FACES)]
        things = list(THINGS)
        weights = np.array(list(THINGS.values())) * rng.gamma(1.0, 1.0, len(things))
        shares = (weights / weights.sum()).cumsum()
        shares[-1] = 1.0
        count = int(clutter * log_uniform(rng, 12, 60) * (1.2 if style == "clutter" else 0.9))
        covered, limit = 0.0, rng.uniform(0.8, 3.0) * self.height * self.width
        for _ in range(int(clutter * rng.integers(0, 5))):
            self.start()
            screen(self, self.place(around))
        for _ in range(count):
            size = self.extent()
            if covered > limit:
                size = min(size, 0.15 * self.height)
            covered += size * size * 0.6
            self.start()
            thing = things[int(np.searchsorted(shares, rng.random()))]
            thing(self, self.place(around), size)
        return self.finish(style, around, faces)

    def finish(self, style: str, around: Surroundings, faces: list[list[float]]) -> Scene:
        """Turn the lists into arrays."""
        rows = self.rows
        count = len(rows["kind"])
        shape = lambda key, *tail: np.array(rows[key], float).reshape(count, *tail)
        surfaces = np.array([*faces, *rows["surface"]], np.float32).reshape(-1, len(SURFACE_FIELDS))
        return Scene(
            self.focal,
            self.baseline,
            self.height,
            self.width,
            style,
            around,
            self.light(),
            np.array(rows["kind"], int),
            shape("rotation", 3, 3),
            shape("centre", 3),
            shape("square", 3),
            shape("linear"),
            shape("constant"),
            shape("low", 3),
            shape("high", 3),
            np.array(rows["cutout"], int),
            shape("map", 2, 4),
            np.array(rows["labels"], int),
            np.array(rows["objects"], int),
            surfaces,
            int(self.rng.integers(2**31)),
        )


def compose(
    seed: int,
    height: int,
    width: int,
    max_disparity: float,
    style: str | None = None,
    focal: float | None = None,
    haze: float = 0.12,
    mirrors: float = 0.25,
    clutter: float = 1.0,
) -> Scene:
    """Return the scene number `seed`; arguments as for `render`."""
    rng = np.random.default_rng([23, seed])
    return Composer(rng, height, width, max_disparity, focal, haze, mirrors).compose(style, clutter)
