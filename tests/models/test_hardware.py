"""Settings of a device: the images of one pass, and the precision of its convolutions."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from sparring.errors import ConfigError
from sparring.models import chosen_batch_size, plain_settings, single_precision

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


@pytest.fixture
def layers() -> Iterator[list[Any]]:
    """What holds the precision of convolutions and of recurrent layers."""
    found: list[Any] = [getattr(torch.backends.cudnn, name, None) for name in ("conv", "rnn")]
    if None in found:
        pytest.skip("it needs PyTorch 2.9")
    yield found
    torch.backends.cudnn.allow_tf32 = True


@pytest.mark.parametrize("block", [single_precision, plain_settings])
@pytest.mark.parametrize("before", [["tf32", "tf32"], ["ieee", "tf32"], ["ieee", "ieee"]])
def test_convolutions_are_in_single_precision_inside_and_as_before_after_it(block, before, layers):
    for layer, precision in zip(layers, before, strict=True):
        layer.fp32_precision = precision
    with pytest.raises(KeyError), block():
        assert not torch.backends.cudnn.allow_tf32
        with block():
            assert not torch.backends.cudnn.allow_tf32
        assert not torch.backends.cudnn.allow_tf32
        raise KeyError
    assert [layer.fp32_precision for layer in layers] == before
