"""Labelled images: reading and checking them, and the seeded order they are trained in.

Nothing is downloaded or executed, and the global random state is not used.
"""

from sparring.data.images import Batch, Dataset, Images, ImageSet, first_images, sample
from sparring.data.order import Augmentation, Crop, Flip, Order, Ticket, augmented, rows
from sparring.data.source import load_dataset, open_dataset
from sparring.data.streamed import StreamedSet
from sparring.data.torch_dataset import Items, dataset_from, images_from

__all__ = [
    "Augmentation",
    "Batch",
    "Crop",
    "Dataset",
    "Flip",
    "ImageSet",
    "Images",
    "Items",
    "Order",
    "StreamedSet",
    "Ticket",
    "augmented",
    "dataset_from",
    "first_images",
    "images_from",
    "load_dataset",
    "open_dataset",
    "rows",
    "sample",
]
