"""The web demo: networks side by side on one's own images, on a page that this machine serves."""

from .panel import Comparison, Panel

__all__ = ["Comparison", "Panel"]
