"""What a result was computed with: software, hardware, precision; nothing about whose it is."""

import os
import platform
import subprocess
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from sparring.errors import ConfigError

UNKNOWN = "unknown"
"""Stands where the system does not say."""

_GIT_SECONDS = 5
"""Longest wait for git, which may hang on a network file system; its answer is optional."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Environment:
    """Software and hardware that can change a number or a duration."""

    sparring: str
    """Version of this library."""
    python: str
    """Version of Python."""
    torch: str
    """Version of PyTorch, with its build."""
    numpy: str
    """Version of NumPy."""
    platform: str
    """Operating system, its release, and the architecture."""
    processor: str
    """Model name of the CPU."""
    cores: int
    """Logical CPU cores that this process may use."""
    memory_bytes: int
    """Main memory of the machine, in bytes; 0 if unknown."""
    threads: int
    """Threads that computed tensors."""
    device: str
    """Where tensors were computed, such as cpu or cuda (NVIDIA A100)."""
    precision: str
    """Number format of the computation, such as bf16 or fp32."""
    commit: str | None
    """Git commit of the source, ending in -dirty if changed since; null for an installed copy."""


def describe(*, threads: int, device: str, precision: str) -> Environment:
    """Environment of this process, given what only the caller knows. Cost: two calls of git."""
    return Environment(
        sparring=installed_version("sparring"),
        python=platform.python_version(),
        torch=installed_version("torch"),
        numpy=installed_version("numpy"),
        platform=f"{platform.system()} {platform.release()} {platform.machine()}",
        processor=_processor(),
        cores=available_cores(),
        memory_bytes=_memory_bytes(),
        threads=threads,
        device=device,
        precision=precision,
        commit=_commit(Path(__file__).parents[3]),
    )


def installed_version(package: str) -> str:
    """Version of an installed package, or that it is unknown."""
    try:
        return version(package)
    except PackageNotFoundError:
        return UNKNOWN


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or platform.processor() or platform.machine() or UNKNOWN


def available_cores() -> int:
    """CPU cores that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:
        return os.cpu_count() or 1


def available_memory() -> int | None:
    """Bytes of memory that this machine can still give; `None` if it does not tell."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    amounts = (line.split()[1] for line in lines if line.startswith("MemAvailable:"))
    return next((1024 * int(amount) for amount in amounts), None)


def _memory_bytes() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return 0


def _commit(checkout: Path) -> str | None:
    """Commit of a checkout of this project; a checkout further up is another project's."""
    top = _git(checkout, "rev-parse", "--show-toplevel")
    if not top or Path(top).resolve() != checkout.resolve():
        return None
    return _git(checkout, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")


def _git(folder: Path, *words: str) -> str | None:
    # Inside a git hook, GIT_DIR and its like would point git at another repository.
    clean = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        answer = subprocess.run(
            ["git", "-C", str(folder), *words],
            capture_output=True,
            text=True,
            timeout=_GIT_SECONDS,
            check=True,
            env=clean,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip() or None


def number_from_environment(name: str, otherwise: int) -> int:
    """The number in an environment variable of a launcher of trainers, such as torchrun.

    Raises `ConfigError` if it is no number.
    """
    text = os.environ.get(name, str(otherwise))
    if not text.isdecimal():
        raise ConfigError.expected(
            f"the environment variable {name} must be a number",
            repr(text),
            "Start trainers with torchrun, or unset it.",
        )
    return int(text)
