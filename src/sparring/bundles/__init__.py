"""A run's network for use elsewhere: weights, programs and a model card, each checked."""

from sparring.bundles.export import Exported, export
from sparring.bundles.formats import FORMATS, TOLERANCE, Format, FormatName
from sparring.bundles.reading import exported_network

__all__ = ["FORMATS", "TOLERANCE", "Exported", "Format", "FormatName", "export", "exported_network"]
