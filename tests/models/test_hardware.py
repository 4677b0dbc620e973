"""How many images pass through a network together follows from the device, unless asked for."""

import pytest
import torch

from sparring.errors import ConfigError
from sparring.models import chosen_batch_size

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 1)


def test_a_batch_is_of_the_size_asked_for_or_the_devices_own():
    assert chosen_batch_size(None, CPU) == 128
    assert chosen_batch_size(None, CPU, on_cpu=256) == 256
    assert chosen_batch_size(None, CUDA) == 1024
    assert chosen_batch_size(7, CPU) == chosen_batch_size(7, CUDA, on_cpu=256) == 7


@pytest.mark.parametrize(("size", "rule"), [(0, "1 or more"), (-3, "1 or more"), (10**10, "less")])
def test_a_batch_of_no_images_or_too_many_is_refused(size, rule):
    with pytest.raises(ConfigError, match=f"batch_size must be .*{rule}"):
        chosen_batch_size(size, CPU)
