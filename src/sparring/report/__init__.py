"""Report: figures and one page, made from records alone, without torch."""

from sparring.report.drawing import draw, heat_map
from sparring.report.page import Written, read_story, write_page

__all__ = ["Written", "draw", "heat_map", "read_story", "write_page"]
