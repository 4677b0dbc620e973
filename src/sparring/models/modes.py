"""Evaluation mode for the time of a block, each module's own flag restored after it."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def evaluation_mode(model: object) -> Iterator[None]:
    """Dropout off and BatchNorm by its running statistics, for a `torch.nn.Module`.

    Anything else (a plain function from images to logits) is left alone. Every submodule's flag
    is put back as it was, also after an error.
    """
    modules = list(model.modules()) if isinstance(model, nn.Module) else []
    flags = [module.training for module in modules]
    try:
        for module in modules:
            module.training = False
        yield
    finally:
        for module, flag in zip(modules, flags, strict=True):
            module.training = flag
