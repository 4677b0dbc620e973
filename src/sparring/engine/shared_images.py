"""Training images for the processes that attack them.

Shapes: N training images, C H W image.
"""

import pickle
from typing import Any

from sparring.data import Images, ImageSet
from sparring.engine.memory import Arena, Shape
from sparring.errors import DataError


class SharedImages:
    """Training images for processes that are spawned with it: those in memory are shared.

    Images that are streamed are not: every process reads them itself.
    Cost: one copy of the images. Raises `DataError` for what cannot be sent to other processes.
    """

    def __init__(self, images: Images) -> None:
        self._streamed: Images | None = None
        self._arena: Arena | None = None
        if isinstance(images, ImageSet):
            self._num_classes = images.num_classes
            self._arena = _copied(images)
        else:
            self._streamed = sendable(images)

    @property
    def images(self) -> Images:
        """They, as this process sees them."""
        if self._streamed is not None:
            return self._streamed
        if self._arena is None:
            raise ValueError("the images were given back: close() comes after their last use")
        return ImageSet(
            pixels=self._arena["pixels"],
            labels=self._arena["labels"],
            num_classes=self._num_classes,
        )

    def close(self) -> None:
        """Give up this process's view; may be called twice."""
        if self._arena is not None:
            self._arena.close()
            self._arena = None


def unpicklable(thing: object) -> str | None:
    """Why a thing cannot be sent to other processes; `None` if it can. Cost: it is pickled.

    The reason names the attribute that cannot, of a module as `features.2.act`.
    """
    if (reason := _refused(thing)) is None:
        return None
    path, inner = [], thing
    while True:
        attributes: dict[str, Any] = dict(getattr(inner, "__dict__", {}))
        for kind in ("_modules", "_parameters", "_buffers"):
            attributes |= attributes.pop(kind, {})
        found = ((name, part) for name, part in attributes.items() if _refused(part) is not None)
        name, part = next(found, (None, None))
        if name is None or len(path) > _DEEPEST:
            break
        path.append(name)
        inner, reason = part, _refused(part) or reason
    return f"its attribute {'.'.join(path)}: {reason}" if path else reason


_DEEPEST = 32
"""Attributes of attributes that are searched for one that does not pickle."""


def _refused(thing: object) -> str | None:
    try:
        pickle.dumps(thing)
    except (pickle.PickleError, AttributeError, TypeError, RuntimeError, RecursionError) as error:
        # RuntimeError is what PyTorch's parametrised and scripted modules raise.
        return str(error) or type(error).__name__
    return None


def sendable(images: Images) -> Images:
    """The same streamed images, which every worker reads itself.

    Raises `DataError` for what cannot be sent to other processes.
    """
    if (reason := unpicklable(images)) is not None:
        raise DataError(
            "Images that are streamed must pickle, because every worker reads them itself; "
            f"got: {reason}. Define their class at the top of a module, hold no open files in "
            "it, or raise data_memory so that they are held in memory."
        )
    return images


def _copied(images: ImageSet) -> Arena:
    arena = Arena(
        {
            "pixels": Shape(sizes=tuple(images.pixels.shape), dtype=images.pixels.dtype),
            "labels": Shape(sizes=tuple(images.labels.shape), dtype=images.labels.dtype),
        }
    )
    arena["pixels"].copy_(images.pixels)
    arena["labels"].copy_(images.labels)
    return arena
