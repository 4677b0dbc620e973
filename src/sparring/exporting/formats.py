"""Formats of exported networks, and the comparison of each with its network.

Shapes: B batch, C channels, H W image, K classes.  Units: pixels in [0, 1].
"""

import importlib.util
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float32
from torch import Tensor, nn

from sparring.attacks import checked
from sparring.errors import ConfigError, cause
from sparring.models import copied, load_weights, save_weights
from sparring.records.checks import choice

FormatName = Literal["safetensors", "torch", "onnx"]
"""Weights; a program of `torch.export`; an ONNX model."""
TOLERANCE = 1e-4
"""Largest difference of a logit, relative to the largest logit if that is above 1."""
OPSET = 18
"""Version of ONNX's operators, the default of torch's exporter."""
_NOISY = "torch.onnx._internal.exporter._registration"
"""It logs every operator of torchvision that is not installed; no network needs them."""

Logits = Callable[[Tensor], Tensor]


class Format(NamedTuple):
    """A format: its file, and functions that write and read it."""

    file: str
    write: Callable[[nn.Module, Tensor, Path], None]
    read: Callable[[nn.Module, Path], Logits]
    exact: bool


def check_available(name: str) -> None:
    """Raise `ConfigError` for an unknown format, or if its extra is not installed."""
    choice("the format", name, FORMATS)
    needed = ("onnx", "onnxscript", "onnxruntime") if name == "onnx" else ()
    missing = [module for module in needed if importlib.util.find_spec(module) is None]
    if missing:
        raise ConfigError(
            f"the format onnx needs the extra onnx; {', '.join(missing)} is not installed. "
            "Install it with: pip install 'sparring[onnx]'"
        )


def difference(network: nn.Module, answers: Logits, images: Float32[Tensor, " B C H W"]) -> float:
    """Largest difference of a logit, in the unit of `TOLERANCE`, over batches of several sizes.

    NaN if a logit of the file is NaN.
    """
    worst = 0.0
    logits_of = checked(network, torch.empty(0, dtype=torch.int64))
    with torch.no_grad():
        for size in (len(images), min(3, len(images)), 1):
            wanted, found = logits_of(images[:size]), answers(images[:size])
            unit = max(1.0, float(wanted.abs().max()))
            worst = max(worst, float((wanted - found).abs().max()) / unit, key=_nan_last)
    return worst


def _nan_last(value: float) -> float:
    return value if value == value else float("inf")


def _write_weights(network: nn.Module, images: Tensor, path: Path) -> None:
    save_weights(network.state_dict(), path)


def _read_weights(network: nn.Module, path: Path) -> Logits:
    """A copy of the network with the weights of the file.

    Infinities and NaN stay, as in a mask: a file may hold those only that its network has.
    """
    emptied = copied(network)
    with torch.no_grad():
        for value in emptied.state_dict().values():
            value.masked_fill_(value.isfinite(), 0)
    load_weights(emptied, path)
    return emptied


def _write_program(network: nn.Module, images: Tensor, path: Path) -> None:
    with _traced("torch"):
        program = torch.export.export(
            network, (images,), dynamic_shapes=({0: torch.export.Dim("batch")},)
        )
        torch.export.save(program, path)


def _read_program(network: nn.Module, path: Path) -> Logits:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return torch.export.load(path).module()


def _write_onnx(network: nn.Module, images: Tensor, path: Path) -> None:
    with _traced("onnx"):
        program: Any = torch.onnx.export(
            network,
            (images,),
            dynamo=True,
            opset_version=OPSET,
            input_names=["images"],
            output_names=["logits"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            verbose=False,
        )
        program.save(path, external_data=False)


def _read_onnx(network: nn.Module, path: Path) -> Logits:
    onnxruntime: Any = importlib.import_module("onnxruntime")
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def answers(images: Tensor) -> Tensor:
        (logits,) = session.run(["logits"], {"images": images.numpy()})
        return torch.from_numpy(logits)

    return answers


@contextmanager
def _traced(name: str) -> Iterator[None]:
    """Silence torch's warnings, and raise `ConfigError` for a network that it cannot trace."""
    log = logging.getLogger(_NOISY)
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except OSError:
        raise
    except Exception as error:
        if isinstance(error, ImportError) and (error.name or "").startswith("onnx"):
            raise ConfigError(
                f"onnx and onnxscript do not support torch {torch.__version__}: {error}. Install "
                "newer ones: pip install --upgrade onnx onnxscript onnxruntime."
            ) from error
        raise ConfigError(
            f"torch.export cannot trace the network for batches of any size ({cause(error)}). "
            "Remove branches on pixel values or on the number of images from its forward pass, or "
            "export to safetensors."
        ) from error
    finally:
        log.setLevel(level)


FORMATS: MappingProxyType[str, Format] = MappingProxyType(
    {
        "safetensors": Format("weights.safetensors", _write_weights, _read_weights, exact=True),
        "torch": Format("model.pt2", _write_program, _read_program, exact=False),
        "onnx": Format("model.onnx", _write_onnx, _read_onnx, exact=False),
    }
)
"""Formats by name."""
