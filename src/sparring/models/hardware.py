"""The device of passes, its units, the size of batches, and CPU threads."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch

from sparring.errors import ConfigError, cause
from sparring.records.checks import at_least


def chosen_device(name: str) -> torch.device:
    """The device of this name; "auto" is the first CUDA device if there is one, else the CPU.

    Raises `ConfigError` for a device that this machine does not have.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
        if device.type == "meta":
            raise RuntimeError("its tensors have no values")
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(
            f"device {name!r} cannot be used: {cause(error)}. Take cpu, or auto."
        ) from error
    return device


def neighbours(device: torch.device, number: int = 0, of: int = 1) -> list[torch.device]:
    """Devices for the workers of a trainer on `device`: all other CUDA devices, or the same one.

    Of several trainers, which have the first devices, trainer `number` gets an even share of the
    others.
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
    """Images of one pass: `asked`, or `on_cpu` on a CPU and eight times as many elsewhere.

    Raises `ConfigError` for fewer than one.
    """
    if asked is None:
        return on_cpu if device.type == "cpu" else 8 * on_cpu
    at_least("batch_size", asked, 1)
    return asked


@contextmanager
def computing_threads(count: int) -> Iterator[None]:
    """Use `count` CPU threads inside the block; 0 leaves their number as it is.

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

    So they are with matrix units, or AVX-512 bf16 of AMD (2.8 times). Intel's AVX-512 bf16 without
    AMX was slower than single precision (docs/decisions/0003).
    """
    if device.type == "cpu":
        found = _capabilities()
        amd = str(found.get("cpu_name", "")).startswith("AMD")
        return has_matrix_units(device) or (amd and bool(found.get("avx512_bf16", False)))
    return has_matrix_units(device)


def has_fast_products() -> bool:
    """Whether this CPU multiplies a matrix sooner than it reads a third of it from the last cache.

    An Intel Xeon does; AMD's Zen 4 does not (docs/decisions/0008).
    """
    return not str(_capabilities().get("cpu_name", "")).startswith("AMD")


def _capabilities() -> Mapping[str, object]:
    return getattr(torch.cpu, "get_capabilities", dict)()  # PyTorch 2.10 and later
