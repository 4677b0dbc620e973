"""Where passes are computed: the device, its units, the size of batches, threads of the CPU."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch

from sparring.errors import ConfigError
from sparring.records.checks import at_least


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


def neighbours(device: torch.device, number: int = 0, of: int = 1) -> list[torch.device]:
    """Devices for a trainer's workers on this machine, where the trainer has `device`.

    All other CUDA devices; the same one, where it is the only one or the CPU. Of several trainers,
    which have the first devices, the one with this `number` gets an even share of the others.
    """
    if device.type != "cuda":
        return [device]
    if of > 1:
        shared = [torch.device("cuda", i) for i in range(of, torch.cuda.device_count())]
        return shared[number::of] or [device]
    own = torch.cuda.current_device() if device.index is None else device.index
    others = [torch.device("cuda", i) for i in range(torch.cuda.device_count()) if i != own]
    return others or [device]


def chosen_batch_size(asked: int | None, device: torch.device, *, on_cpu: int = 128) -> int:
    """Images that pass through a network together: as many as `asked`, or by the device if `None`.

    By default `on_cpu` images on a CPU, where more are no faster for the paper's network, and eight
    times as many on other devices, which is untested.
    Raises `ConfigError` for fewer than one.
    """
    if asked is None:
        return on_cpu if device.type == "cpu" else 8 * on_cpu
    at_least("batch_size", asked, 1)
    return asked


@contextmanager
def computing_threads(count: int) -> Iterator[None]:
    """Compute with `count` CPU threads within a block; 0 leaves their number as it is.

    Raises `ConfigError` for a negative number.
    """
    at_least("threads", count, 0)
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def has_matrix_units(device: torch.device) -> bool:
    """Whether the device has units for bf16 matrices: CUDA from Ampere on, CPUs with AMX."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and bool(_capabilities().get("amx_bf16", False))


def has_bf16_units(device: torch.device) -> bool:
    """Whether bf16 products are several times faster than single precision on this device.

    Matrix units, or AVX-512 bf16 as AMD builds it (Zen 4 and 5: 2.8 times the speed of single
    precision). Intel's AVX-512 bf16 without AMX multiplied slower than single precision did
    (docs/decisions/0003), so it does not count.
    """
    if device.type == "cpu":
        found = _capabilities()
        amd = str(found.get("cpu_name", "")).startswith("AMD")
        return has_matrix_units(device) or (amd and bool(found.get("avx512_bf16", False)))
    return has_matrix_units(device)


def _capabilities() -> Mapping[str, object]:
    return getattr(torch.cpu, "get_capabilities", dict)()  # PyTorch 2.10 and later
