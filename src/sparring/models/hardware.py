"""Where passes are computed: the device, and how many threads of the CPU."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from sparring.errors import ConfigError


def chosen_device(name: str) -> torch.device:
    """The device of this name; "auto" is the first CUDA device, or the CPU where there is none.

    Raises `ConfigError` for a name that PyTorch does not know or a device that is not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(
            f"device must name one that this machine has; {name!r} cannot be used ({reason[:100]})."
            f" Take cpu, or auto."
        ) from error
    return device


@contextmanager
def computing_threads(count: int) -> Iterator[None]:
    """Compute with so many CPU threads for the time of a block; 0 leaves the number as it is."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
