"""A run's network for use elsewhere: weights, programs and a model card, each checked."""

from sparring.exporting.folder import Exported, export, exported_network
from sparring.exporting.formats import FORMATS, TOLERANCE, Format, FormatName

__all__ = ["FORMATS", "TOLERANCE", "Exported", "Format", "FormatName", "export", "exported_network"]
