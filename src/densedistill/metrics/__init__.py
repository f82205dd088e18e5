"""Metrics: pure functions, and torchmetrics classes over them that pool across batches and processes."""

from .disparity import D1, EPE, RMS, Bad, bad, d1, epe, rms
from .published import DSNetMean, dsnet_mean
from .registry import METRICS, MetricInfo, create_metric, metric_info, metric_name, register_metric
from .sceneflow import SceneFlowOutliers, flow_epe, sceneflow_counts, sceneflow_figures
from .segmentation import MeanIoU, mean_iou

__all__ = [
    "D1",
    "EPE",
    "METRICS",
    "RMS",
    "Bad",
    "DSNetMean",
    "MeanIoU",
    "MetricInfo",
    "SceneFlowOutliers",
    "bad",
    "create_metric",
    "d1",
    "dsnet_mean",
    "epe",
    "flow_epe",
    "mean_iou",
    "metric_info",
    "metric_name",
    "register_metric",
    "rms",
    "sceneflow_counts",
    "sceneflow_figures",
]
