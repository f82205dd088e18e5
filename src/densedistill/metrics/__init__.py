"""Metrics: pure functions, and torchmetrics classes over them that pool across batches and processes."""

from .disparity import D1, EPE, RMS, Bad, bad, d1, epe, rms
from .published import DSNetMean, dsnet_mean
from .registry import METRICS, create_metric, metric_name

__all__ = [
    "D1",
    "EPE",
    "METRICS",
    "RMS",
    "Bad",
    "DSNetMean",
    "bad",
    "create_metric",
    "d1",
    "dsnet_mean",
    "epe",
    "metric_name",
    "rms",
]
