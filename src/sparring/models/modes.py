"""Training and evaluation mode, in which each layer may have a flag of its own."""

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


def training_mode(network: nn.Module) -> None:
    """Put a network into training mode; layers that are in evaluation mode stay so.

    So do those that the network's own `train` puts there.
    """
    kept = [module for module in network.modules() if not module.training]
    network.train()
    for module in kept:
        module.training = False


def kept_layers(network: nn.Module) -> dict[str, list[str]]:
    """Names of the layers that are in evaluation mode, and of the weights that are frozen."""
    return {
        "evaluation": [name for name, module in network.named_modules() if not module.training],
        "frozen": [name for name, each in network.named_parameters() if not each.requires_grad],
    }
