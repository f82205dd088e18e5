"""Metrics: pure functions, and torchmetrics classes over them that pool across batches and processes."""

from .disparity import D1, EPE, RMS, Bad, bad, d1, epe, rms
from .kitti import as_kitti_png, fill_missing, kitti_errors
from .published import DSNetMean, dsnet_mean
from .quantile import AverageError, ErrorQuantile, error_quantile
from .registry import METRICS, MetricInfo, create_metric, metric_info, metric_name, register_metric
from .sceneflow import SceneFlowOutliers, flow_epe, sceneflow_counts, sceneflow_figures
from .segmentation import MeanIoU, class_iou, confusion_matrix, mean_iou

__all__ = [
    "D1",
    "EPE",
    "METRICS",
    "RMS",
    "AverageError",
    "Bad",
    "DSNetMean",
    "ErrorQuantile",
    "MeanIoU",
    "MetricInfo",
    "SceneFlowOutliers",
    "as_kitti_png",
    "bad",
    "class_iou",
    "confusion_matrix",
    "create_metric",
    "d1",
    "dsnet_mean",
    "epe",
    "error_quantile",
    "fill_missing",
    "flow_epe",
    "kitti_errors",
    "mean_iou",
    "metric_info",
    "metric_name",
    "register_metric",
    "rms",
    "sceneflow_counts",
    "sceneflow_figures",
]
