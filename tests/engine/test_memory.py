"""Shared memory is shared, has no name, and leaves nothing behind."""

import multiprocessing
import os
import pickle
from pathlib import Path

import pytest
import torch

from engine.arena_child import double
from sparring.engine import memory
from sparring.engine.memory import Arena, Shape

SHAPES = {"numbers": Shape(sizes=(2, 3)), "bytes": Shape(sizes=(5,), dtype=torch.uint8)}


def descriptors() -> set[str]:
    return {path.name for path in Path("/proc/self/fd").iterdir()}


@pytest.mark.process
@pytest.mark.parametrize("named", [False, True], ids=["memfd", "unlinked file"])
def test_a_spawned_process_reads_and_writes_the_same_memory(monkeypatch, named):
    if named:
        monkeypatch.delattr(os, "memfd_create")
    arena = Arena(SHAPES)
    assert not arena["numbers"].any()
    ours, theirs = multiprocessing.get_context("spawn").Pipe()
    child = multiprocessing.get_context("spawn").Process(target=double, args=(arena, theirs))
    child.start()
    arena["numbers"].copy_(torch.arange(6.0).view(2, 3))
    arena["bytes"].copy_(torch.tensor([1, 2, 3, 4, 255]))
    ours.send("written")
    assert ours.recv() == [1, 2, 3, 4, 255]
    child.join()
    assert arena["numbers"].tolist() == [[0, 2, 4], [6, 8, 10]]
    for end in (ours, theirs):
        end.close()
    arena.close()


def test_closing_frees_the_descriptor_once_and_keeps_tensors_in_use():
    before = descriptors()
    arena = Arena(SHAPES)
    numbers = arena["numbers"]
    arena.close()
    arena.close()
    numbers.fill_(7)
    assert numbers.sum() == 42
    del numbers
    assert descriptors() == before


def test_it_is_handed_over_in_no_other_way():
    with pytest.raises(RuntimeError, match="only to a process that is being spawned"):
        pickle.dumps(Arena(SHAPES))


def test_tensors_do_not_overlap():
    arena = Arena({str(number): Shape(sizes=(number,)) for number in (1, 1024, 1025, 0, 3)})
    for name in ("1", "1024", "1025", "3"):
        arena[name].fill_(float(name))
    assert all(bool((arena[name] == float(name)).all()) for name in ("1", "1024", "1025", "3"))
    assert len(arena["0"]) == 0


def test_every_tensor_begins_a_page():
    arena = Arena(SHAPES)
    starts = {arena[name].data_ptr() % memory.ALIGNMENT for name in SHAPES}
    assert starts == {0}
