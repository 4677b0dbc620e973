"""What a caller has set in PyTorch, put aside for a call; and why a module cannot be called."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from sparring.errors import ConfigError, cause
from sparring.models.state import module_of


@contextmanager
def plain_settings() -> Iterator[None]:
    """PyTorch as it is by default, so that a call gives the same whatever surrounds it.

    Gradients are recorded, outside of inference mode, without autocast and without the detection
    of anomalies; new tensors are float32 and on the CPU. All of it is put back afterwards.
    """
    with ExitStack() as stack:
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


def original_module(model: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """The module inside wrappers that compute the same: `DataParallel` and `torch.compile`."""
    if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
        return original_module(model.module)
    inner = getattr(model, "_orig_mod", None)
    return original_module(inner) if isinstance(inner, nn.Module) else model


def check_callable(model: object) -> None:
    """Refuse what is no classifier, or is a module without usable weights. Raises `ConfigError`."""
    if isinstance(model, type):
        raise ConfigError(
            f"model must be a network, not its class; got the class {model.__name__}. Build it: "
            f"{model.__name__}(...)."
        )
    if not callable(model):
        raise ConfigError(
            "model must be a torch.nn.Module or a function from images to logits; got "
            f"{type(model).__name__}. Pass a network, such as sparring.PaperCNN()."
        )
    if not isinstance(model, nn.Module):
        return
    for name, value in _values(model):
        if (reason := _unusable(value)) is not None:
            raise ConfigError(
                f"the weights of the model must hold numbers that can be computed with; {name} of "
                f"{type(model).__name__} {reason}"
            )


MODEL_ERRORS = (
    RuntimeError,
    TypeError,
    ValueError,
    LookupError,
    AttributeError,
    ArithmeticError,
    AssertionError,
)
"""What Python and PyTorch raise where a model does not bear its images."""


def why_failed(error: Exception, model: Callable[[Tensor], Tensor], images: Tensor) -> ConfigError:
    """A sentence for a model that failed on a batch of images."""
    module = module_of(model)
    name = "the function" if module is None else type(module).__name__
    failed = f"{name} failed ({cause(error)})"
    weights = [] if module is None else [each for _, each in _values(module) if _is_weight(each)]
    kinds, devices = {each.dtype for each in weights}, {each.device for each in weights}
    if kinds and images.dtype not in kinds:
        advice = "Pass images.float() and model.float(), or cast inside the model."
        if torch.float64 in kinds:
            advice = "Pass images.double(), or model.float()."
        return ConfigError(
            f"images must have the dtype of the model's weights; got {images.dtype} and "
            f"{_listed(kinds)}, and {failed}. {advice}"
        )
    if devices and images.device not in devices:
        return ConfigError(
            f"images must be where the model is; got images on {images.device} and weights on "
            f"{_listed(devices)}, and {failed}. Move one of them: images.to(device)."
        )
    count = f"{len(images)} image{'' if len(images) == 1 else 's'}"
    return ConfigError(
        f"the model must answer {count} of shape {tuple(images.shape[1:])}, as any other number, "
        f"because a search goes on with the images that are left, down to one; {failed}. Make it "
        "take batches of any size, or pass a function that pads them."
    )


def has_no_numbers(value: Tensor) -> bool:
    """Whether a tensor is on the meta device; subclasses there keep their numbers elsewhere."""
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
        return (
            "is not initialised yet, as lazy layers are before their first batch. Call the model "
            "once on a batch of images first."
        )
    if has_no_numbers(value):
        return (
            "is on the meta device, which holds no numbers. Build the model on a real device, or "
            "use model.to_empty(device=...) and load its weights."
        )
    if value.is_inference():
        return (
            "was made in torch.inference_mode(), and no gradient passes such tensors. Build the "
            "model outside of it, or pass copy.deepcopy(model)."
        )
    return None
