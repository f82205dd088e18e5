"""Losses: pure functions `loss(student, teacher, mask=None, **options) -> scalar`, one file a family.

They compute in float32 (float64 for float64 inputs) whatever autocast says, and give a gradient to the
student only.
"""

from ._shared import LOSSES, register_loss
from .affinity import pairwise, pairwise_4d, pairwise_cvpr19
from .decomposition import laplacian_fine, laplacian_low, laplacian_middle
from .depth import bin_cross_entropy, depth_gradient, scale_and_shift_invariant, silog, virtual_normal
from .detection import class_kl, fcos
from .distribution import focal, kl, kld, soft_kl, soft_kl4d, soft_kl4d_v2, stereo_kld
from .feature import cosine
from .generation import MGD
from .holistic import Holistic
from .laplacian import laplacian_cross_entropy
from .regression import huber, l1, log_l1, log_l1_published, log_ratio, mse, smooth_l1
from .relation import hcl, mf_old, pkt, rkd
from .sceneflow import pooled_l1, summed_l1
from .segmentation import (
    cross_entropy,
    ohem_cross_entropy,
    pixel_wise,
    pixel_wise_cvpr19,
    pixel_wise_published,
    standardised_kl,
)
from .statistics import channel_wise, cross_image, dist

__all__ = [
    "LOSSES",
    "MGD",
    "Holistic",
    "bin_cross_entropy",
    "channel_wise",
    "class_kl",
    "cosine",
    "cross_entropy",
    "cross_image",
    "depth_gradient",
    "dist",
    "fcos",
    "focal",
    "hcl",
    "huber",
    "kl",
    "kld",
    "l1",
    "laplacian_cross_entropy",
    "laplacian_fine",
    "laplacian_low",
    "laplacian_middle",
    "log_l1",
    "log_l1_published",
    "log_ratio",
    "mf_old",
    "mse",
    "ohem_cross_entropy",
    "pairwise",
    "pairwise_4d",
    "pairwise_cvpr19",
    "pixel_wise",
    "pixel_wise_cvpr19",
    "pixel_wise_published",
    "pkt",
    "pooled_l1",
    "register_loss",
    "rkd",
    "scale_and_shift_invariant",
    "silog",
    "smooth_l1",
    "soft_kl",
    "soft_kl4d",
    "soft_kl4d_v2",
    "standardised_kl",
    "stereo_kld",
    "summed_l1",
    "virtual_normal",
]
