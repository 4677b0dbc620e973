"""Labelled images: reading and checking them, and the seeded order they are trained in.

Nothing here is downloaded, executed or drawn from a global random state: a data set comes from
files whose every defect is named, and an order of tickets is a pure function of its seed.
"""

from sparring.data.images import Batch, Dataset, ImageSet
from sparring.data.order import Order, Ticket, rows
from sparring.data.seeds import derive_seed
from sparring.data.source import load_dataset

__all__ = [
    "Batch",
    "Dataset",
    "ImageSet",
    "Order",
    "Ticket",
    "derive_seed",
    "load_dataset",
    "rows",
]
