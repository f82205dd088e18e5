"""Losses: pure functions `loss(student, teacher, mask=None, **options) -> scalar`, one file a family.

They compute in float32 (float64 for float64 inputs) whatever autocast says, and give a gradient to the
student only.
"""

from ._shared import LOSSES, register_loss
from .distribution import focal, kl, kld, soft_kl, soft_kl4d, soft_kl4d_v2, stereo_kld
from .feature import cosine
from .laplacian import laplacian_cross_entropy
from .regression import huber, l1, log_l1, log_l1_published, log_ratio, mse, smooth_l1
from .relation import hcl, mf_old, pairwise, pairwise_4d, pkt, rkd
from .sceneflow import pooled_l1, summed_l1

__all__ = [
    "LOSSES",
    "cosine",
    "focal",
    "hcl",
    "huber",
    "kl",
    "kld",
    "l1",
    "laplacian_cross_entropy",
    "log_l1",
    "log_l1_published",
    "log_ratio",
    "mf_old",
    "mse",
    "pairwise",
    "pairwise_4d",
    "pkt",
    "pooled_l1",
    "register_loss",
    "rkd",
    "smooth_l1",
    "soft_kl",
    "soft_kl4d",
    "soft_kl4d_v2",
    "stereo_kld",
    "summed_l1",
]
