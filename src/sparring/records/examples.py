"""A few images of an evaluation with what attacks made of them, to be looked at."""

from base64 import b64decode
from binascii import Error as NotBase64
from dataclasses import dataclass
from pathlib import Path

from sparring.errors import ConfigError
from sparring.records.codec import from_json, to_json
from sparring.records.files import read_json, write_json
from sparring.records.typed import typed


@dataclass(frozen=True, kw_only=True, slots=True)
class Example:
    """One test image, and the version of it that the evaluation ended with."""

    label: int
    """Its true class."""
    natural: int
    """What the network says of the clean image."""
    adversarial: int
    """What it says of the other version."""
    broken_by: str | None
    """The attack that broke it; null if it is robust, or wrong when clean."""
    clean: str
    """Pixels row by row from the top, channels together, a byte each (0 to 255), in base64."""
    attacked: str
    """The image that broke it; else where the last search ended; clean where there was none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Examples:
    """Images of one size, in the order of the test set."""

    height: int
    """Rows of each."""
    width: int
    """Pixels of a row."""
    channels: int
    """1 for grey, 3 for red, green and blue."""
    images: tuple[Example, ...]
    """The images."""

    def __post_init__(self) -> None:
        """Raise `ConfigError` unless all images are of the size."""
        if self.channels not in (1, 3):
            raise ConfigError(
                f"example images must have 1 channel (grey) or 3 (colour); got {self.channels}."
            )
        size = self.height * self.width * self.channels
        for number, image in enumerate(self.images):
            for pixels in (image.clean, image.attacked):
                if (length := bytes_in(pixels)) != size:
                    raise ConfigError(
                        f"example image {number} must hold {size} bytes in base64, {self.height} "
                        f"rows of {self.width} with {self.channels} channels; it holds {length}."
                    )

    def save(self, path: Path) -> None:
        """Write examples.json atomically. Raises `RunError` if it cannot be written."""
        write_json(path, to_json(self), indent=None)

    @classmethod
    @typed
    def load(cls, path: Path | str) -> "Examples":
        """Read examples.json. Raises `RunError` or `ConfigError` if it is missing or damaged."""
        return from_json(cls, read_json(Path(path)), where=str(path))


def bytes_in(text: str) -> int:
    """How many bytes some base64 stands for; -1 if it is none."""
    try:
        return len(b64decode(text, validate=True))
    except (NotBase64, ValueError):
        return -1
