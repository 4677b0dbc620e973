"""Images and labels of a data set, as tensors."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from sparring.data import Batch, Dataset, Images
from sparring.data.torch_dataset import pair
from sparring.errors import ConfigError, SparringError, cause

LOADED = 256
"""Items of a `torch.utils.data.Dataset` that are stacked at once."""

Source = Images | Dataset | Batch | TorchDataset[Any] | DataLoader[Any]
"""Objects that hold images and their labels."""


def materialised(data: Source) -> tuple[Tensor, Tensor]:
    """All images and labels, in order; of a `Dataset` those of its test set.

    Memory: all images as float32. The global random state is drawn from only by your own code and
    by a `DataLoader` of yours. Raises `ConfigError` unless items are pairs of an image tensor
    and a class, or dicts with one of each, as of `dataset_from`.
    """
    if isinstance(data, Batch):
        return data.images, data.labels
    if isinstance(data, Dataset):
        return materialised(data.test)
    if isinstance(data, Images):
        images, labels = data.batch(torch.arange(len(data)))
        return images, labels
    if isinstance(data, DataLoader):
        loader = data
    else:  # it draws a number for its workers, and would draw it from the global state
        loader = DataLoader(data, batch_size=LOADED, generator=torch.Generator())
    try:
        pairs = (pair(each, "a batch") if isinstance(each, Mapping) else each for each in loader)
        batches = [(images, torch.as_tensor(labels)) for images, labels, *_ in pairs]
        return torch.cat([one for one, _ in batches]), torch.cat([one for _, one in batches])
    except SparringError:
        raise
    except Exception as error:  # from a user's data set
        raise ConfigError(
            f"the items of {type(data).__name__} must be pairs of an image tensor and a class, at "
            "least one, in batches if it is a DataLoader; they cannot be stacked "
            f"({cause(error)}). Give the data set a transform to tensors in [0, 1] of one shape, "
            "such as torchvision.transforms.ToTensor(), and labels that are numbers."
        ) from error
