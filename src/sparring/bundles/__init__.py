"""A run's network for use elsewhere: weights, programs and a model card, each checked."""

from sparring.bundles.formats import FORMATS, TOLERANCE, Format, FormatName
from sparring.bundles.reading import exported_network
from sparring.bundles.writing import Exported, export

__all__ = ["FORMATS", "TOLERANCE", "Exported", "Format", "FormatName", "export", "exported_network"]
