"""What a scene holds: primitives, surfaces, light and camera, as arrays; no randomness here.

Coordinates: metres, x to the right, y down, z into the picture; the world is the left camera's frame at
the first instant. A primitive has its own frame: `world = rotation @ local + centre`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

PLANE, QUADRIC, ELLIPSOID, BOX = range(4)

# Semantic classes, by number: values of `labels` and `classes`.
LABELS = ("sky", "ground", "wall", "ceiling", "panel", "thin", "ball", "tube", "box", "plant")

# Faces of a box or of the surroundings: -x, +x, -y, +y, -z, +z of their own frame.
FACES = 6

# What a surface looks like: one row of `Scene.surfaces` a face of the surroundings, then one a primitive.
SURFACE_FIELDS = (
    "texture",  # number in the bank
    "lod",  # log2 of texels a metre
    "red_gain",
    "green_gain",
    "blue_gain",
    "red_bias",
    "green_bias",
    "blue_bias",
    "detail",  # number of a second texture, whose grey modulates the first
    "detail_weight",
    "detail_a",  # second texture: u' = a u + b v, v' = a v - b u
    "detail_b",
    "detail_lod",
    "specular",
    "reflection",  # how much of the surroundings it mirrors
    "lit",  # 1 shaded by the light, 0 luminous (the sky)
)


@dataclass
class Light:
    """A sun, the light from everywhere, a mask that throws shadows, and haze."""

    direction: np.ndarray  # (3,) unit, towards the light
    ambient: float
    mask: int  # texture whose grey is the shadow mask
    mask_map: np.ndarray  # (2, 3) world metres to texels
    mask_lod: float
    mask_strength: float
    mirror: int  # texture of the mirrored surroundings
    haze: float  # per metre
    haze_colour: np.ndarray  # (3,)


@dataclass
class Surroundings:
    """The inside of a box around everything: a room, or ground and sky."""

    rotation: np.ndarray  # (3, 3)
    centre: np.ndarray  # (3,)
    half: np.ndarray  # (3,)
    labels: np.ndarray  # (6,)
    texels: np.ndarray  # (6,) texels a metre

    def depth(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Return the depth (metres) along the rays (x, y, 1) from the left camera; any shape."""
        origin = -self.rotation.T @ self.centre
        rays = np.stack([x, y, np.ones_like(x)], -1) @ self.rotation
        rays = np.where(np.abs(rays) < 1e-9, 1e-9, rays)
        return ((self.half - np.sign(rays) * origin) / np.abs(rays)).min(-1)


@dataclass
class Scene:
    """Everything that a view is cast from. Arrays have one row a primitive (N rows)."""

    focal: float  # px
    baseline: float  # metres
    height: int
    width: int
    style: str
    surroundings: Surroundings
    light: Light
    kind: np.ndarray  # (N,) PLANE, QUADRIC, ELLIPSOID or BOX
    rotation: np.ndarray  # (N, 3, 3)
    centre: np.ndarray  # (N, 3)
    square: np.ndarray  # (N, 3) quadric: square . q^2 + linear q_z + constant = 0
    linear: np.ndarray  # (N,)
    constant: np.ndarray  # (N,)
    low: np.ndarray  # (N, 3) the box, in the primitive's frame, that bounds it
    high: np.ndarray  # (N, 3)
    cutout: np.ndarray  # (N,) -1: none
    texture_map: np.ndarray  # (N, 2, 4) local metres (and 1) to texels
    labels: np.ndarray  # (N,)
    objects: np.ndarray  # (N,) number of the object it belongs to, from 1
    surfaces: np.ndarray  # (FACES + N, len(SURFACE_FIELDS)) float32
    sensor_seed: int = 0
    # Motion a frame, about zero until drawn: of each object (and of 0, the surroundings, which stay) and
    # the camera.
    object_pivot: np.ndarray = field(default_factory=lambda: np.zeros((1, 3)))  # metres
    object_step: np.ndarray = field(default_factory=lambda: np.zeros((1, 3)))  # metres
    object_turn: np.ndarray = field(default_factory=lambda: np.zeros((1, 3)))  # axis times angle
    camera_step: np.ndarray = field(default_factory=lambda: np.zeros(3))
    camera_turn: np.ndarray = field(default_factory=lambda: np.zeros(3))

    def __post_init__(self) -> None:
        """Number the faces: six of the surroundings, then one a primitive, or six where it is a box."""
        counts = np.where(self.kind == BOX, FACES, 1)
        self.first_face = FACES + np.cumsum(counts) - counts  # (N,)
        # (faces,) the primitive, or -1 for the surroundings; and the row of `surfaces`.
        self.face_owner = np.concatenate([np.full(FACES, -1), np.repeat(np.arange(len(counts)), counts)])
        self.face_surface = np.concatenate(
            [np.arange(FACES), FACES + np.repeat(np.arange(len(counts)), counts)]
        )
        self.face_objects = np.concatenate([np.zeros(FACES, int), self.objects[self.face_owner[FACES:]]])
