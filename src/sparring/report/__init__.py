"""Report: pictures of what was found, drawn from records alone, so without torch."""

from sparring.report.heatmap import heat_map

__all__ = ["heat_map"]
