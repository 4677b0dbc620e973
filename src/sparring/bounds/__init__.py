"""Bounds of a network's outputs for all images in a box: intervals and linear relaxations.

`NetworkBounds` is a differentiable pass for training, and, with rounding, the ground of
certificates.
"""

from sparring.bounds.boxes import Box, Region
from sparring.bounds.layers import unknown
from sparring.bounds.network import NetworkBounds, Pass
from sparring.bounds.relaxation import bytes_of_image, tightened

__all__ = [
    "Box",
    "NetworkBounds",
    "Pass",
    "Region",
    "bytes_of_image",
    "tightened",
    "unknown",
]
