"""The paper's network and its cheaper forms on a CPU."""

from functools import cache

import torch
from typing_extensions import override

from sparring.models.forms import AttackPasses, Form, WorkingCopy, register_form
from sparring.models.hardware import has_matrix_units
from sparring.models.paper_cnn.network import Initialisation, PaperCNN
from sparring.models.paper_cnn.sparse import sparse_passes
from sparring.models.paper_cnn.spectral import SpectralCopy

__all__ = ["Initialisation", "PaperCNN"]


class _OnCPU(Form[PaperCNN]):
    """Spectral passes for training without matrix units, sparse passes for attacks."""

    @override
    def working_copy(
        self, network: PaperCNN, *, device: torch.device, rounded: bool
    ) -> WorkingCopy | None:
        direct = device.type != "cpu" or (rounded and has_matrix_units(device))
        if direct or not _has_its_layers(network):
            return None
        return SpectralCopy(network, rounded=rounded)

    @override
    def attack_passes(self, network: PaperCNN, *, device: torch.device) -> AttackPasses | None:
        usable = device.type == "cpu" and _has_its_layers(network)
        return sparse_passes(network) if usable else None


def _has_its_layers(network: PaperCNN) -> bool:
    """Whether layers and their settings are unchanged."""
    return repr(network) == _layers_shown()


@cache
def _layers_shown() -> str:
    return repr(PaperCNN(generator=torch.Generator()))


register_form(PaperCNN, _OnCPU())
