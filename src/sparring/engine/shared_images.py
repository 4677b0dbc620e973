"""Training images that worker processes share.

Shapes: N training images, C H W image.
"""

import pickle
from typing import Any

from sparring.data import Images, ImageSet
from sparring.engine.memory import Arena, Shape
from sparring.errors import DataError


class SharedImages:
    """Training images for processes that are spawned with it.

    Images in memory are shared, at the cost of one copy. Of streamed ones every process reads its
    own. Raises `DataError` for images that cannot be sent to other processes.
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
        """This process's view of the images."""
        if self._streamed is not None:
            return self._streamed
        if self._arena is None:
            raise ValueError("the shared images are closed")
        return ImageSet(
            pixels=self._arena["pixels"],
            labels=self._arena["labels"],
            num_classes=self._num_classes,
        )

    def close(self) -> None:
        """Release this process's view; may be called twice."""
        if self._arena is not None:
            self._arena.close()
            self._arena = None


def unpicklable(thing: object) -> str | None:
    """The reason why a thing does not pickle; `None` if it does. Cost: it is pickled.

    The reason names the attribute that fails, of a module as `features.2.act`.
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
    """The same streamed images. Raises `DataError` if they do not pickle."""
    if (reason := unpicklable(images)) is not None:
        raise DataError(
            f"workers cannot read these streamed images, which do not pickle: {reason}. Define "
            "their class at the top of a module, without open files, or raise data_memory to hold "
            "them in memory."
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
