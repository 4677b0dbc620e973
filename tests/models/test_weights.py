"""Weights come back bit for bit, or not at all."""

import errno
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from sparring.errors import CheckpointError
from sparring.models import load_weights, save_weights
from sparring.models.weights import put_weights


def network(seed: int, outputs: int = 2) -> nn.Module:
    """With numbers, running statistics and a counter, all drawn from the seed."""
    layers = nn.Sequential(nn.Conv2d(1, 3, 2), nn.BatchNorm2d(3), nn.Linear(4, outputs))
    generator = torch.Generator().manual_seed(seed)
    for value in layers.state_dict().values():
        if value.is_floating_point():
            value.normal_(generator=generator)
        else:
            value.fill_(seed)
    return layers


def state(layers: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in layers.state_dict().items()}


def assert_same_bits(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name].dtype == value.dtype
        assert found[name].numpy().tobytes() == value.numpy().tobytes(), name


@contextmanager
def untouched(layers: nn.Module) -> Iterator[None]:
    before = state(layers)
    yield
    assert_same_bits(state(layers), before)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "weights.safetensors"


def test_weights_come_back_bit_for_bit_into_the_same_tensors(path):
    source, target = network(1), network(2)
    special = [-0.0, 3e38, -3e-39, 1e-45]
    source.get_parameter("2.weight").data[0] = torch.tensor(special)
    places = {name: value.data_ptr() for name, value in target.state_dict().items()}
    save_weights(source.state_dict(), path)
    load_weights(target, path)
    assert_same_bits(state(target), state(source))
    assert {name: value.data_ptr() for name, value in target.state_dict().items()} == places
    assert all(value.requires_grad for value in target.parameters())


def test_the_words_about_weights_come_back(path):
    words = {"version": "17", "ε": "8/255", "empty": ""}
    save_weights(network(1).state_dict(), path, about=words)
    assert load_weights(network(2), path) == words
    save_weights(network(1).state_dict(), path)
    assert load_weights(network(2), path) == {}


def test_tensors_that_are_views_or_transposed_are_written_as_what_they_show(path):
    flat = torch.arange(12.0)
    target = nn.Linear(4, 2)
    save_weights({"weight": flat[:8].view(4, 2).t(), "bias": flat[8:10].requires_grad_()}, path)
    load_weights(target, path)
    assert target.weight.tolist() == [[0, 2, 4, 6], [1, 3, 5, 7]]
    assert target.bias.tolist() == [8, 9]


def test_a_second_save_replaces_the_first_and_leaves_nothing_else(path):
    save_weights(network(1).state_dict(), path)
    save_weights(network(2).state_dict(), path)
    target = network(3)
    load_weights(target, path)
    assert_same_bits(state(target), state(network(2)))
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.bfloat16, torch.float64])
def test_weights_in_other_numbers_are_those_of_the_network(path, dtype):
    target = network(2)
    other = {name: value.to(dtype) for name, value in state(network(1)).items()}
    other["1.num_batches_tracked"] = torch.tensor(7, dtype=torch.uint16)
    save_weights(other, path)
    load_weights(target, path)
    assert target.get_buffer("1.num_batches_tracked") == 7
    for name, value in target.named_parameters():
        assert torch.equal(value, other[name].float())


@pytest.mark.parametrize("value", [1e300, -torch.inf])
def test_numbers_beyond_the_networks_own_are_refused(path, value):
    other = {name: value.double() for name, value in state(network(1)).items()}
    other["2.bias"][0] = value
    save_weights(other, path)
    target = network(2)
    with untouched(target), pytest.raises(CheckpointError, match="1 weights that are NaN or inf"):
        load_weights(target, path)


def test_numbers_that_cannot_be_converted_are_refused(path):
    other = state(network(1))
    pairs = torch.zeros(2, dtype=torch.uint8).view(torch.float4_e2m1fn_x2)
    target = network(2)
    with untouched(target), pytest.raises(CheckpointError, match=r"convert .*float4_e2m1fn_x2"):
        put_weights(target, other | {"2.bias": pairs}, path)


def test_a_missing_file_is_a_checkpoint_error(path):
    target = network(1)
    with untouched(target), pytest.raises(CheckpointError, match=r"weights\.safe.*no such file"):
        load_weights(target, path)


def test_a_folder_is_not_a_file_of_weights(tmp_path):
    target = network(1)
    with untouched(target), pytest.raises(CheckpointError, match=r"must be a safetensors file"):
        load_weights(target, tmp_path)


@pytest.mark.parametrize("kept", [0, 4, 8, 100, -200, -1])
def test_a_truncated_file_is_a_checkpoint_error(path, kept):
    save_weights(network(2).state_dict(), path)
    path.write_bytes(path.read_bytes()[:kept])
    target = network(1)
    with untouched(target), pytest.raises(CheckpointError, match=r"cannot be read.*Restore it"):
        load_weights(target, path)


def test_a_file_of_something_else_is_a_checkpoint_error(path):
    path.write_bytes(b"PK\x03\x04" + bytes(range(256)) * 8)
    target = network(1)
    with untouched(target), pytest.raises(CheckpointError, match="cannot be read"):
        load_weights(target, path)


def test_weights_of_another_shape_are_refused_by_name(path):
    save_weights(network(2, outputs=5).state_dict(), path)
    target = network(1)
    message = r"Sequential; 2 tensors.*2\.bias \(5,\) instead of \(2,\).*another network"
    with untouched(target), pytest.raises(CheckpointError, match=message):
        load_weights(target, path)


def test_a_missing_tensor_is_named(path):
    weights = state(network(2))
    del weights["1.running_var"]
    save_weights(weights, path)
    target = network(1)
    message = r"1 tensor is missing \(1\.running_var\)"
    with untouched(target), pytest.raises(CheckpointError, match=message):
        load_weights(target, path)


def test_a_tensor_too_many_is_named(path):
    save_weights(state(network(2)) | {"3.weight": torch.zeros(4)}, path)
    target = network(1)
    message = r"1 tensor is not the network's \(3\.weight\)"
    with untouched(target), pytest.raises(CheckpointError, match=message):
        load_weights(target, path)


def test_a_folder_in_the_place_of_the_file_stays_and_nothing_is_left_beside_it(path):
    path.mkdir()
    (path / "kept").touch()
    with pytest.raises(OSError):
        save_weights(network(1).state_dict(), path)
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]
    assert (path / "kept").exists()


def test_a_missing_folder_is_an_os_error(path):
    with pytest.raises(FileNotFoundError):
        save_weights(network(1).state_dict(), path.parent / "missing" / path.name)


@contextmanager
def files_up_to(num_bytes: int) -> Iterator[None]:
    """No file of this process may grow beyond that, as if the disk were full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_disk_that_fills_up_leaves_the_old_file_whole_and_nothing_else(path):
    save_weights(network(1).state_dict(), path)
    larger = {"weight": torch.zeros(100_000)}
    with pytest.raises(OSError) as caught, files_up_to(50_000):
        save_weights(larger, path)
    assert caught.value.errno == errno.EFBIG
    assert list(path.parent.iterdir()) == [path]
    target = network(2)
    load_weights(target, path)
    assert_same_bits(state(target), state(network(1)))
