"""Which network a run trains, as a record that can be stored and built again."""

from dataclasses import dataclass

import torch

from sparring.models.paper_cnn import Initialisation, PaperCNN
from sparring.models.weights import load_weights
from sparring.records import RunDirectory


@dataclass(frozen=True, kw_only=True, slots=True)
class PaperNetwork:
    """The paper's convolutional network for 28x28 grey images (`PaperCNN`)."""

    initialisation: Initialisation = "madry"
    """"madry": truncated normal 0.1, biases 0.1; "torch": PyTorch's default; "small": PyTorch's
    with the first layer's weights at a quarter and no biases."""

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of the images it takes."""
        return PaperCNN.image_shape

    @property
    def num_classes(self) -> int:
        """Number of its logits."""
        return PaperCNN.num_classes

    def build(self, seed: int) -> PaperCNN:
        """A freshly initialised network; the same seed gives the same weights."""
        return PaperCNN(self.initialisation, generator=torch.Generator().manual_seed(seed))


def trained_network(run: RunDirectory, *, version: int | None = None) -> PaperCNN:
    """The network of a run with the weights that it was trained to, on the CPU, to be evaluated.

    With a `version`, those of then, of which the run must have kept a snapshot.
    Raises `CheckpointError` or `ConfigError` where the run's files are missing or damaged.
    """
    network = run.section("model", PaperNetwork).build(seed=0)
    load_weights(network, run.weights if version is None else run.snapshot(version))
    return network.eval()
