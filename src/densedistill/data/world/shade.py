"""From hits to colours: textures, light, shadows from outside the picture, highlights, mirrors, haze."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from .raycast import Caster
from .scene import BOX, FACES, SURFACE_FIELDS

_CHUNK = 1 << 14  # rays whose numbers stay in a core's cache
_SURFACE = {name: k for k, name in enumerate(SURFACE_FIELDS)}


class Shader:
    """Colours what the rays of one view hit."""

    def __init__(self, caster: Caster):
        scene, view = caster.scene, caster.view
        self.caster, self.light, self.focal = caster, scene.light, scene.focal
        self.bank, self.device = caster.bank, caster.device
        self.towards = view.rotation @ scene.light.direction
        # Shadow mask and its origin seen from this camera: the mask is fixed in the world.
        self.mask_map = scene.light.mask_map @ view.rotation.T
        self.mask_start = -self.mask_map @ view.translation
        # Gathering a number for every ray takes its time, so leave out what no surface has.
        used = {
            "specular": scene.surfaces[:, _SURFACE["specular"]].any(),
            "reflection": scene.surfaces[:, _SURFACE["reflection"]].any(),
            "lit": (scene.surfaces[:, _SURFACE["lit"]] != 1).any(),
        }
        self.fields = [name for name in SURFACE_FIELDS if used.get(name, True)]
        looks = scene.surfaces[:, [_SURFACE[name] for name in self.fields]]
        rows = np.concatenate([self._geometry(), looks[scene.face_surface].T])
        self.rows = torch.from_numpy(rows.astype(np.float32)).to(self.device)

    def _geometry(self) -> np.ndarray:
        """Return (17, faces): what gives normal and texture coordinates of a point in camera axes, linear
        in it.

        normal = matrix @ point + offset (the gradient of the surface's equation; symmetric matrix as xx,
        yy, zz, xy, xz, yz), and u and v in texels, each three factors and a constant.
        """
        caster, scene = self.caster, self.caster.scene
        around = scene.surroundings
        owner = scene.face_owner
        # Own axes and centre of every face's primitive; the surroundings stand in front.
        rotation = np.concatenate([caster.around_rotation[None], caster.rotation])[owner + 1]
        middle = -caster.around_rotation @ caster.around_origin
        centre = np.concatenate([middle[None], caster.centre])[owner + 1]
        count = len(owner)

        square, linear = np.zeros((count, 3)), np.zeros(count)
        square[FACES:], linear[FACES:] = scene.square[owner[FACES:]], scene.linear[owner[FACES:]]
        matrix = (rotation * square[:, None]) @ rotation.transpose(0, 2, 1)
        offset = rotation[:, :, 2] * (linear / 2)[:, None] - np.einsum("nij,nj->ni", matrix, centre)

        texture_map = np.zeros((count, 2, 4))
        texture_map[:FACES, 0, 0] = texture_map[:FACES, 1, 1] = around.texels
        texture_map[FACES:] = scene.texture_map[owner[FACES:]]
        # On a box, the normal is the face's axis, and the other two axes in order take the place of x and y.
        first = np.concatenate(
            [np.zeros(FACES, int), np.where(scene.kind == BOX, scene.first_face, -1)[owner[FACES:]]]
        )
        boxes = np.flatnonzero(first >= 0)
        axis = (boxes - first[boxes]) // 2
        offset[boxes] = rotation[boxes, :, axis]
        across, along = np.array([1, 0, 0])[axis], np.array([2, 2, 1])[axis]
        flat = texture_map[boxes]
        turned = np.zeros_like(flat)
        turned[:, :, 3] = flat[:, :, 3]
        each = np.arange(len(boxes))
        turned[each, :, across], turned[each, :, along] = flat[:, :, 0], flat[:, :, 1]
        texture_map[boxes] = turned

        factors = texture_map[:, :, :3] @ rotation.transpose(0, 2, 1)
        constant = texture_map[:, :, 3] - np.einsum("nij,nj->ni", factors, centre)
        entries = [matrix[:, i, j] for i, j in ((0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2))]
        texture = np.concatenate([factors, constant[:, :, None]], 2).reshape(count, 8)
        return np.concatenate([np.stack(entries), offset.T, texture.T])

    def shade(self, x: Tensor, y: Tensor, depth: Tensor, face: Tensor) -> Tensor:
        """Return colours (3, M), about [0, 1], of rays (x, y, 1) that hit `face` at `depth`; all (M,)."""
        if self.device.type != "cpu":
            return torch.stack(self._shade(x, y, depth, face))
        # In pieces that stay in the cache.
        colours = torch.empty((3, len(x)))
        for start in range(0, len(x), _CHUNK):
            part = slice(start, start + _CHUNK)
            for k, channel in enumerate(self._shade(x[part], y[part], depth[part], face[part])):
                colours[k, part] = channel
        return colours

    def _shade(self, x: Tensor, y: Tensor, depth: Tensor, face: Tensor) -> list[Tensor]:
        values = list(self.rows.index_select(1, face))
        u, v, light, sight, ray_length = self._attributes(x, y, depth, values)
        look = dict(zip(self.fields, values[17:], strict=True))
        bank, sun = self.bank, self.light

        # Texels that a pixel covers: along a slanted surface more than across it, so take the geometric mean.
        # Half a level less keeps it as sharp as a camera's pixels do.
        footprint = torch.log2(depth * depth / (sight.clamp(min=0.02) * self.focal**2)) * 0.5 - 0.5
        colour = bank.colour(look["texture"].int(), u, v, footprint + look["lod"])
        a, b = look["detail_a"], look["detail_b"]
        detail = bank.grey(look["detail"].int(), u * a + v * b, v * a - u * b, footprint + look["detail_lod"])
        detail = 1 + look["detail_weight"] * (detail - 0.5)

        direct = light.clamp(min=0)
        if sun.mask_strength > 0:
            m, start = self.mask_map.tolist(), self.mask_start.tolist()
            mask_u = depth * (x * m[0][0] + (y * m[0][1] + m[0][2])) + start[0]
            mask_v = depth * (x * m[1][0] + (y * m[1][1] + m[1][2])) + start[1]
            grey = bank.grey(
                torch.full_like(face, sun.mask), mask_u, mask_v, torch.full_like(u, sun.mask_lod)
            )
            direct = direct * (1 - sun.mask_strength * (1 - ((grey - 0.35) * 4).clamp_(0, 1)))
        brightness = sun.ambient + (1 - sun.ambient) * direct
        if "lit" in look:
            brightness = 1 + look["lit"] * (brightness - 1)
        scale = detail * brightness
        channels = [
            (texel * look[f"{name}_gain"] + look[f"{name}_bias"]).clamp_(0.01, 1) * scale
            for name, texel in zip(("red", "green", "blue"), colour, strict=True)
        ]
        if "reflection" in look:
            self._mirror(channels, look["reflection"], light, sight, x, y)
        if "specular" in look:
            cosine = (x * self.towards[0] + y * self.towards[1] + self.towards[2]) / ray_length
            glint = (2 * light * sight + cosine).clamp_(min=0)
            for _ in range(4):  # to the power of 16
                glint = glint * glint
            extra = look["specular"] * glint * light.sign().clamp_(min=0)
            channels = [c + extra for c in channels]
        if sun.haze > 0:
            veil = torch.exp(depth * -sun.haze)
            channels = [h + (c - h) * veil for c, h in zip(channels, sun.haze_colour.tolist(), strict=True)]
        return channels

    def _mirror(
        self, channels: list[Tensor], reflection: Tensor, light: Tensor, sight: Tensor, x: Tensor, y: Tensor
    ) -> None:
        """Mix in what shiny surfaces mirror.

        It depends on how normal, light and line of sight lie to each other, so it moves with the view.
        """
        at = reflection.nonzero().view(-1)
        if not len(at):
            return
        u = 400 * light[at] + 90 * x[at]
        v = 400 * sight[at] + 90 * y[at]
        number = torch.full_like(at, self.light.mirror, dtype=torch.int32)
        for channel, seen in zip(channels, self.bank.colour(number, u, v, torch.ones_like(u)), strict=True):
            channel.index_copy_(0, at, torch.lerp(channel[at], seen, reflection[at]))

    def _attributes(self, x: Tensor, y: Tensor, z: Tensor, values: list[Tensor]) -> tuple[Tensor, ...]:
        """Return u, v (texels), cosines of light and sight with the normal towards the viewer, ray length."""
        px, py = x * z, y * z
        linear = lambda at: torch.addcmul(values[at + 3], px, values[at]).addcmul_(py, values[at + 1])
        u, v = linear(9).addcmul_(z, values[11]), linear(13).addcmul_(z, values[15])
        xx, yy, zz, xy, xz, yz, nx, ny, nz = values[:9]
        nx = torch.addcmul(nx, px, xx).addcmul_(py, xy).addcmul_(z, xz)
        ny = torch.addcmul(ny, px, xy).addcmul_(py, yy).addcmul_(z, yz)
        nz = torch.addcmul(nz, px, xz).addcmul_(py, yz).addcmul_(z, zz)
        length = torch.rsqrt((nx * nx).addcmul_(ny, ny).addcmul_(nz, nz).add_(1e-20))
        sun_x, sun_y, sun_z = self.towards.tolist()
        light = (nx * sun_x).add_(ny, alpha=sun_y).add_(nz, alpha=sun_z).mul_(length)
        sight = torch.addcmul(nz, nx, x).addcmul_(ny, y).mul_(length)
        ray_length = (x * x).addcmul_(y, y).add_(1).sqrt_()
        return u, v, light.mul_(-sight.sign()), sight.abs_().div_(ray_length), ray_length
