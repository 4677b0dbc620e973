"""Report: pictures of what was found, drawn from records alone, so without torch."""

from sparring.report.drawing import draw
from sparring.report.heatmap import heat_map

__all__ = ["draw", "heat_map"]
