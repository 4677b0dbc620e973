"""Calls of a model under PyTorch's default settings; why a model cannot be called."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from sparring.errors import ConfigError, OwnCodeFailed, SparringError, cause
from sparring.models.state import module_of
from sparring.records.text import counted, kind_text


@contextmanager
def plain_settings() -> Iterator[None]:
    """Restore PyTorch's default settings inside the block.

    Gradients are recorded; inference mode, autocast and anomaly detection are off; new tensors are
    float32 and on the CPU; convolutions are as in `single_precision`.
    """
    with ExitStack() as stack:
        stack.enter_context(single_precision())
        stack.enter_context(torch.inference_mode(mode=False))
        stack.enter_context(torch.enable_grad())
        for device in ("cpu", "cuda"):
            if torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        if torch.is_anomaly_enabled():
            stack.enter_context(torch.autograd.set_detect_anomaly(mode=False))
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        if (dtype := torch.get_default_dtype()) != torch.float32:
            stack.callback(torch.set_default_dtype, dtype)
            torch.set_default_dtype(torch.float32)
        yield


@contextmanager
def single_precision() -> Iterator[None]:
    """Compute float32 convolutions in float32 inside the block, also on CUDA.

    By default PyTorch rounds their inputs to the 10 bits of TF32 there.
    """
    cudnn: Any = torch.backends.cudnn
    layers = [cudnn.conv, cudnn.rnn] if hasattr(cudnn, "conv") else []  # PyTorch 2.9 and later
    before = [layer.fp32_precision for layer in layers]
    try:
        in_tf32 = cudnn.allow_tf32
    except RuntimeError:  # the layers were set one by one
        in_tf32 = None
    if in_tf32 is False:
        yield
        return
    cudnn.allow_tf32 = False
    try:
        yield
    finally:
        cudnn.allow_tf32 = True
        for layer, precision in zip(layers, before, strict=True) if in_tf32 is None else ():
            layer.fp32_precision = precision


def original_module(model: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """The module inside wrappers that compute the same: `DataParallel` and `torch.compile`."""
    if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
        return original_module(model.module)
    inner = getattr(model, "_orig_mod", None)
    return original_module(inner) if isinstance(inner, nn.Module) else model


def check_callable(model: object) -> None:
    """Refuse what cannot be called, or has unusable weights. Raises `ConfigError`."""
    if isinstance(model, type):
        raise ConfigError(f"model is the class {model.__name__}. Build it: {model.__name__}(...).")
    if not callable(model):
        rule = "model must be a torch.nn.Module or a function from images to logits"
        raise ConfigError.expected(rule, kind_text(model))
    if isinstance(model, nn.Module):
        check_numbers(model)


def check_numbers(model: nn.Module) -> None:
    """Refuse lazy, meta and inference tensors among weights and buffers. Raises `ConfigError`."""
    for name, value in _values(model):
        if (reason := _unusable(value)) is not None:
            raise ConfigError(f"{name} of {type(model).__name__} {reason}")


@contextmanager
def model_errors(model: Callable[[Tensor], Tensor], images: Tensor) -> Iterator[None]:
    """Turn whatever the call of a model on these images raises in the block into a `ConfigError`.

    Errors of sparring and a lack of memory pass.
    """
    try:
        yield
    except (SparringError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # a network of your own may raise anything
        raise OwnCodeFailed(_why_failed(error, model, images)) from error


def _why_failed(error: Exception, model: Callable[[Tensor], Tensor], images: Tensor) -> str:
    """What is to say of a model that failed on a batch of images."""
    module = module_of(model)
    name = "the function" if module is None else type(module).__name__
    failed = f"{name} failed ({cause(error)})"
    weights = [] if module is None else [each for _, each in _values(module) if _is_weight(each)]
    kinds, devices = {each.dtype for each in weights}, {each.device for each in weights}
    if kinds and images.dtype not in kinds:
        advice = "Pass images.float() and model.float(), or cast inside the model."
        if torch.float64 in kinds:
            advice = "Pass images.double(), or model.float()."
        return (
            f"images are {images.dtype}, the model's weights {_listed(kinds)}: {failed}. {advice}"
        )
    if devices and images.device not in devices:
        return (
            f"images are on {images.device}, the model's weights on {_listed(devices)}: {failed}. "
            "Move one of them: images.to(device)."
        )
    return (
        f"{failed} on {counted(len(images), 'image')} of shape {tuple(images.shape[1:])}. A model "
        "must take images of that shape (channels, height, width), in batches of any size, down to "
        "one image; or pass a function that pads them."
    )


def has_no_numbers(value: Tensor) -> bool:
    """Whether a tensor is on the meta device; subclasses may keep their numbers elsewhere."""
    return value.is_meta and type(value) in (Tensor, nn.Parameter, nn.Buffer)


def _is_weight(value: Tensor) -> bool:
    return value.is_floating_point() or value.is_complex()


def _listed(values: set[torch.dtype] | set[torch.device]) -> str:
    return " and ".join(sorted(map(str, values)))


def _values(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from model.named_parameters()
    yield from model.named_buffers()


def _unusable(value: Tensor) -> str | None:
    if is_lazy(value):
        return "belongs to a lazy layer. Call the model once on a batch of images first."
    if has_no_numbers(value):
        return (
            "is on the meta device, without numbers. Use model.to_empty(device=...) and load its "
            "weights."
        )
    if value.is_inference():
        return (
            "was made in torch.inference_mode(), so that no gradient passes. Build the model "
            "outside of it, or pass copy.deepcopy(model)."
        )
    return None
