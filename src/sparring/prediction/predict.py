"""Classes of images by a run's network, and whether they withstand an attack.

Shapes: B batch, C channels, H rows, W columns, K classes.  Units: pixels in [0, 1].
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int64, UInt8
from torch import Tensor, nn
from torch.nn.functional import interpolate
from typing_extensions import override

from sparring.attacks import PGD, Threat, checked
from sparring.attacks.checks import from_numpy, numbered
from sparring.attacks.own_threat import check_threat
from sparring.attacks.search import ATTACKED
from sparring.attacks.threat import stored_threat
from sparring.data import Dataset
from sparring.data.class_folders import is_picture
from sparring.data.files import is_folder, visible
from sparring.data.pictures import Conversion, read_picture
from sparring.data.run_data import conversion_of, dataset_of
from sparring.errors import ConfigError, DataError
from sparring.models import chosen_batch_size, computing_threads, plain_settings, trained_network
from sparring.records import RunDirectory, to_json
from sparring.records.checks import at_least
from sparring.records.files import from_home
from sparring.records.text import counted, data_frame, few, html_table
from sparring.records.typed import typed
from sparring.seeds import derive_seed


@dataclass(frozen=True, kw_only=True, slots=True)
class Unread:
    """A file that cannot be used."""

    source: str
    """The file."""
    reason: str
    """What is wrong with it, and what to do, in a sentence or two."""


def picture_files(named: Sequence[Path | str]) -> tuple[list[Path], list[Unread]]:
    """Files that were named, and the pictures in folders that were, sorted, those below too.

    Hidden files and folders, and what systems leave in folders, are no pictures, as in training.
    """
    if any(path == "" for path in named):
        raise ConfigError(
            "each image must be a file or a folder; one name is empty. Was a variable not set?"
        )
    files, unread = [], []
    for path in map(from_home, named):
        if not is_folder(path):
            files.append(path)
            continue
        try:
            inside = sorted(_below(path, frozenset()))
        except DataError as error:
            unread.append(Unread(source=str(path), reason=str(error)))
            continue
        files += inside
        if not inside:
            reason = f"{path} must hold pictures, because it is a folder; it holds none."
            unread.append(Unread(source=str(path), reason=reason))
    return files, unread


def _below(folder: Path, above: frozenset[tuple[int, int]]) -> Iterator[Path]:
    """Pictures in a folder and those in it; a link to a folder that it lies in is not followed."""
    about = folder.stat()
    here = (about.st_dev, about.st_ino)
    if here in above:
        return
    for path in visible(folder):
        if is_folder(path):
            yield from _below(path, above | {here})
        elif is_picture(path):
            yield path


def read_pictures(
    files: Sequence[Path], run: RunDirectory, size: tuple[int, int, int], *, resize: bool
) -> tuple[Float32[Tensor, " B C H W"], list[str], list[Unread]]:
    """Pixels of the files that can be read, their names, and the others.

    `size` is what the network takes: channels, rows, columns.
    """
    image_size = conversion_of(run).image_size
    levels, sources, unread = [], [], []
    for file in files:
        try:
            levels.append(_levels(file, image_size, size, resize=resize))
            sources.append(str(file))
        except DataError as error:
            unread.append(Unread(source=str(file), reason=str(error)))
    pixels = torch.stack(levels) if levels else torch.empty(0, *size, dtype=torch.uint8)
    return pixels.float().div_(255), sources, unread


def _levels(
    file: Path, image_size: int | None, size: tuple[int, int, int], *, resize: bool
) -> UInt8[Tensor, " C H W"]:
    channels, rows, columns = size
    if image_size is None and resize and rows == columns:
        image_size = rows
    conversion = Conversion(image_size=image_size, channels="grey" if channels == 1 else "rgb")
    picture = read_picture(file, conversion)
    if picture.shape[1:] == (rows, columns):
        return picture
    if not resize:
        raise DataError(
            f"{file} must be {columns} x {rows} pixels, because the network was trained on such; "
            f"it is {picture.shape[2]} x {picture.shape[1]}. --resize fits it."
        )
    scaled = interpolate(
        picture[None].float(), size=(rows, columns), mode="bilinear", antialias=True
    )
    return scaled[0].round().clamp(0, 255).to(torch.uint8)


ImagesToPredict = Sequence[Path | str] | Path | str | Tensor | np.ndarray
"""Files and folders, or pixels."""
TOP = 3
"""Classes that are named for an image."""
STEPS = 40
"""Steps of each of the two attacks."""
ATTACKED_LOSSES = ("cross-entropy", "margin")
"""The losses that they maximise, one after the other."""
ON_CPU = 256
"""Images of one batch on a CPU: a few MB of pixels."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """One class that an image may be of."""

    label: int
    """Its number."""
    name: str
    """Its name; its number where the run has no name for it."""
    probability: float
    """Softmax of the logits, in [0, 1]; networks are often surer than they should be."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Prediction:
    """The prediction for one image."""

    source: str
    """The file, "image 0" for the first of given pixels, or "test 0" for the first test image."""
    top: tuple[Candidate, ...]
    """The likeliest classes, at most three, likeliest first; the first is the prediction."""
    true: str | None = None
    """The true class of a test image."""
    withstands: bool | None = None
    """Whether no attack changed the prediction; `None` without an attack."""

    @override
    def __repr__(self) -> str:
        first, safe = self.top[0], {None: "", True: ", withstands", False: ", changed by attack"}
        true = "" if self.true is None else f", true {self.true}"
        share = f"{100 * first.probability:.1f} %"
        return f"{self.source}: {first.name} {share}{true}{safe[self.withstands]}"

    def row(self) -> dict[str, Any]:
        """Its row in a table."""
        first = self.top[0]
        row = {"image": self.source, "class": first.name, "probability": first.probability}
        return {**row, "true": self.true, "withstands": self.withstands}


@dataclass(frozen=True, kw_only=True, slots=True)
class Predictions:
    """The predictions for all images, in the order in which they were named."""

    found: tuple[Prediction, ...]
    """Those that could be read."""
    unread: tuple[Unread, ...]
    """The others."""
    attack: str | None = None
    """The attack in words; `None` without one."""

    @property
    def title(self) -> str:
        """How many images there are, and what attacked them."""
        unread = f", {counted(len(self.unread), 'file')} not read" if self.unread else ""
        attack = "" if self.attack is None else f", attacked by {self.attack}"
        return f"{counted(len(self.found), 'image')}{unread}{attack}"

    @override
    def __repr__(self) -> str:
        return f"{self.title}: {few([repr(one) for one in self.found])}".removesuffix(": ")

    def _repr_html_(self) -> str:
        """The predictions as a table, for a notebook."""
        rows = [{**one.row(), "probability": f"{one.top[0].probability:.1%}"} for one in self.found]
        names = [name for name in (rows or [{}])[0] if any(row[name] is not None for row in rows)]
        return html_table(self.title, names, [[str(row[name]) for name in names] for row in rows])

    def to_dict(self) -> dict[str, Any]:
        """What `sparring predict --json` prints."""
        return to_json(self)

    def to_frame(self) -> Any:
        """A `pandas.DataFrame` with a row for each image: its likeliest class, and the others."""
        return data_frame([one.row() for one in self.found])


@typed
@plain_settings()
def predict(  # noqa: PLR0913 - which images, and the settings by keyword
    run: RunDirectory | Path | str,
    images: ImagesToPredict = (),
    *,
    test: int = 0,
    resize: bool = False,
    attack: bool = False,
    seed: int = 0,
    threads: int = 0,
    batch_size: int | None = None,
    network: nn.Module | None = None,
    data: Dataset | None = None,
    trust_code: bool = False,
) -> Predictions:
    """The class of each image: picture files, those in folders, pixels, and `test` test images.

    Pixels are a tensor or an array of shape (N, C, H, W) with values in [0, 1], named "image 0" and
    so on. The first `test` test images of the run's data come after them. Files are read as in
    training, made grey or coloured as the network needs them; `resize` fits
    others' sizes. With `attack`, PGD of 40 steps on the cross-entropy and 40 on the margin, within
    the run's threat and away from the prediction, from starts that every image has from `seed`
    alone. To withstand it is no proof. `batch_size` images are read and asked about at once, 256 by
    default; rounding, and so the last digits of a probability, depends on it. `network`, `data` and
    `trust_code` as in `export`; the run's data are needed for `test` only.
    Cost: a pass; with `attack` some 80 forward and backward. Raises `ConfigError`, `DataError`,
    `RunError` or `CheckpointError` for what is wrong with the run; a wrong file is told in
    `unread`.
    """
    run = run if isinstance(run, RunDirectory) else RunDirectory.open(run)
    at_least("test", test, 0)
    at_least("seed", seed, 0)
    at_once = chosen_batch_size(batch_size, torch.device("cpu"), on_cpu=ON_CPU)
    known = run.read_data()
    if test or data is not None or known is None:
        own = dataset_of(run, data).test
        size, count = own.image_shape, len(own)
    else:
        own, size, count = None, known.shape, 0
    pixels, named = _pixels_and_names(images, size)
    if not (len(pixels) or named or test):
        raise ConfigError("images must be named, or test be above 0; got neither. Name a file.")
    if test > count:
        raise ConfigError(f"test must be at most {count}, the number of test images; got {test}.")
    built = trained_network(run, network=network, trust_code=trust_code)
    files, unread = picture_files(named)
    asked = _Asked(
        built, run.class_names(), stored_threat(run, trust_code=trust_code), attack, seed
    )
    found: list[Prediction] = []
    with computing_threads(threads):
        for start in range(0, len(pixels), at_once):
            some = pixels[start : start + at_once]
            names = [f"image {start + place}" for place in range(len(some))]
            found += asked.answers(some, names, None)
        for start in range(0, len(files), at_once):
            part = files[start : start + at_once]
            some, sources, wrong = read_pictures(part, run, size, resize=resize)
            unread += wrong
            if sources:
                found += asked.answers(some, sources, None)
        for start in range(0, test, at_once):
            assert own is not None  # it has more than `test` images
            places = torch.arange(start, min(start + at_once, test))
            some, labels = own.batch(places)
            found += asked.answers(some, [f"test {int(place)}" for place in places], labels)
    words = f"PGD, {STEPS} steps, {' and '.join(ATTACKED_LOSSES)}, seed {seed}" if attack else None
    return Predictions(found=tuple(found), unread=tuple(unread), attack=words)


def _pixels_and_names(
    images: ImagesToPredict, size: tuple[int, int, int]
) -> tuple[Float[Tensor, " B C H W"], Sequence[Path | str]]:
    """Pixels that were passed, and names of files and folders."""
    if isinstance(images, Tensor | np.ndarray):
        return _pixels(images, size), ()
    return torch.empty(0, *size), [images] if isinstance(images, Path | str) else images


def _pixels(images: Tensor | np.ndarray, size: tuple[int, int, int]) -> Float[Tensor, " B C H W"]:
    """Pixels as the network takes them. Raises `ConfigError` for other shapes or values."""
    found = from_numpy("images", images, np.float32)
    if found.dim() != 4 or found.shape[1:] != size:
        raise ConfigError.expected(
            f"images must have the shape (N, {', '.join(map(str, size))})", tuple(found.shape)
        )
    if not found.is_floating_point() or not ((found >= 0) & (found <= 1)).all():
        raise ConfigError.expected(
            "images must be floating-point numbers in [0, 1]",
            _range(found),
            "Divide grey levels by 255.",
        )
    return found.float().cpu()


def _range(found: Tensor) -> str:
    """Type and, where numbers have an order, range of some pixels."""
    if not len(found) or found.is_complex():
        return str(found.dtype)
    return f"{found.dtype} from {found.min():g} to {found.max():g}"


@dataclass(frozen=True, slots=True)
class _Asked:
    """A network, and how its predictions are made."""

    network: nn.Module
    names: tuple[str, ...]
    threat: Threat
    attack: bool
    seed: int

    def answers(
        self,
        images: Float[Tensor, " B C H W"],
        sources: Sequence[str],
        labels: Int64[Tensor, " B"] | None,
    ) -> list[Prediction]:
        with torch.no_grad(), numbered(sources):
            logits = self._logits(images)
        # Of equal logits the lowest class comes first, as in argmax.
        ranked = logits.sort(dim=1, descending=True, stable=True).indices[:, :TOP]
        shares = logits.softmax(1).gather(1, ranked)
        safe = None
        if self.attack:
            with numbered(sources, ATTACKED):
                safe = self._withstands(images, ranked[:, 0]).tolist()
        found = []
        for row, source in enumerate(sources):
            pairs = zip(ranked[row].tolist(), shares[row].tolist(), strict=True)
            candidates = tuple(
                Candidate(label=label, name=self._name(label), probability=share)
                for label, share in pairs
            )
            true = None if labels is None else self._name(int(labels[row]))
            survives = None if safe is None else safe[row]
            found.append(Prediction(source=source, top=candidates, true=true, withstands=survives))
        return found

    def _withstands(
        self, images: Float[Tensor, " B C H W"], predicted: Int64[Tensor, " B"]
    ) -> Bool[Tensor, " B"]:
        safe = torch.ones_like(predicted, dtype=torch.bool)
        check_threat(self.threat, images)
        seeds = torch.full_like(predicted, derive_seed(self.seed, "predict"))
        for loss in ATTACKED_LOSSES:
            search = PGD(threat=self.threat, steps=STEPS, loss=loss)
            start = search.starts(images, seeds)
            attacked = search.search_from(start, self.network, images, predicted)
            with torch.no_grad():
                safe &= self._logits(attacked).argmax(1) == predicted
        return safe

    def _logits(self, images: Float[Tensor, " B C H W"]) -> Float[Tensor, " B K"]:
        return checked(self.network, torch.empty(0, dtype=torch.int64))(images)

    def _name(self, label: int) -> str:
        return self.names[label] if label < len(self.names) else str(label)
