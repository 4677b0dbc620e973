"""A user's file and what it imports from beside it belong together, and never meet another's."""

import copy
import os
import pickle
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparring.errors import ConfigError
from sparring.records.own_code import anchored, imported

PARTS = {
    "layers.py": "VALUE = {0}\ndef value():\n    import lazy\n    return lazy.VALUE\n",
    "lazy.py": "VALUE = {0}\n",
    "blocks/__init__.py": "from blocks.inner import VALUE\n",
    "blocks/inner.py": "import layers\nVALUE = layers.VALUE\n",
    "plain/deep/inner.py": "from layers import VALUE\n",
}
"""Files of a project that all say one number."""
WAYS = [
    "from layers import VALUE\ndef found(): return VALUE",
    "import layers\ndef found(): return layers.VALUE",
    "import layers as other\ndef found(): return other.value()",
    "def found():\n    from layers import value\n    return value()",
    "import blocks.inner\ndef found(): return blocks.inner.VALUE",
    "import blocks.inner as inner\ndef found(): return inner.VALUE",
    "from blocks import inner\ndef found(): return inner.VALUE",
    "from layers import *\ndef found(): return VALUE",
    "from plain.deep import inner\ndef found(): return inner.VALUE",
    "from .layers import VALUE\ndef found(): return VALUE",
    "from . import layers\ndef found(): return layers.value()",
    "import importlib\ndef found(): return importlib.import_module('blocks.inner').VALUE",
    "from importlib import import_module\ndef found(): return import_module('layers').VALUE",
    "def found(): return __import__('layers').VALUE",
    "layers = __import__('blocks.inner').inner\ndef found(): return layers.VALUE",
    "import sys, os\nsys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))\n"
    "from layers import VALUE\nsys.path.pop(0)\ndef found(): return VALUE",
]
"""Ways in which a file finds a number that is beside it."""
FROM_ABOVE = [
    "import sys, pathlib\nsys.path.insert(0, str(pathlib.Path(__file__).parent.parent))\n"
    "from layers import VALUE\ndef found(): return VALUE",
    "import sys, pathlib\nsys.path.append(str(pathlib.Path(__file__).parent.parent))\n"
    "def found():\n    from layers import value\n    return value()",
]
"""The same for a file in a folder beside it."""


def written(folder: Path, files: dict[str, str], number: int) -> Path:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text.replace("{0}", str(number)))
    return folder


def found(reference: str) -> Callable[[], Any]:
    factory = imported(reference, "the factory")
    assert callable(factory)
    return factory


@settings(max_examples=30)
@given(ways=st.permutations(WAYS), lazily=st.booleans())
def test_projects_with_modules_of_the_same_names_never_meet(tmp_path_factory, ways, lazily):
    before = list(sys.path), set(sys.modules) & {"layers", "lazy", "blocks", "plain"}
    folders = [
        written(tmp_path_factory.mktemp("project"), {**PARTS, "nets.py": way}, number)
        for number, way in enumerate(ways[:4])
    ]
    references = [f"{folder}/nets.py:found" for folder in folders]
    if lazily:
        assert [found(reference)() for reference in references] == list(range(4))
    else:
        factories = [found(reference) for reference in references]
        assert [factory() for factory in reversed(factories)] == [3, 2, 1, 0]
    assert (sys.path, set(sys.modules) & {"layers", "lazy", "blocks", "plain"}) == before


@pytest.mark.parametrize("way", [*WAYS, *FROM_ABOVE])
def test_every_way_of_finding_a_module_beside_a_file(tmp_path, way):
    before = list(sys.path)
    for number in (5, 6):
        folder = written(tmp_path / str(number), PARTS, number)
        file = folder / ("inside/nets.py" if way in FROM_ABOVE else "nets.py")
        written(file.parent, {file.name: way}, number)
        assert found(f"{file}:found")() == number
    assert sys.path == before


PACKAGE = {
    "proj/__init__.py": "from .nets import found\n",
    "proj/layers.py": "VALUE = {0}\n",
    "proj/sub/__init__.py": "",
    "proj/sub/more.py": "from ..layers import VALUE\n",
    "proj/nets.py": "from .sub.more import VALUE\nimport proj.layers\nfrom proj import layers\n"
    "assert layers is proj.layers\nimport layers as beside\n"
    "class Net:\n    value = VALUE\ndef found(): return proj.layers.VALUE + beside.VALUE - VALUE\n",
}


@pytest.mark.parametrize("file", ["proj/nets.py", "proj/__init__.py"])
def test_a_file_of_a_package_is_a_module_of_it(tmp_path, file):
    for number in (1, 2):
        folder = written(tmp_path / str(number), PACKAGE, number)
        assert found(f"{folder}/{file}:found")() == number


@pytest.mark.parametrize("name", ["my nets.py", "nets.v2.py", "100%.py", "blocks.py", "a-b.py"])
def test_any_name_of_a_file_will_do(tmp_path, name):
    folder = written(tmp_path, {**PARTS, name: "class Own: pass\n" + WAYS[0]}, 3)
    assert found(f"{folder}/{name}:found")() == 3
    own = imported(f"{folder}/{name}:Own", "the factory")
    assert pickle.loads(pickle.dumps(own)) is own


@pytest.mark.parametrize("reference", ["models/nets.py:found", "models.nets:found"])
def test_a_file_below_the_current_folder_finds_what_is_there(tmp_path, monkeypatch, reference):
    for number in (1, 2):
        files = {"models/nets.py": "from models.parts import VALUE\ndef found(): return VALUE\n"}
        written(tmp_path / str(number), {**files, "models/parts.py": "VALUE = {0}\n"}, number)
        monkeypatch.chdir(tmp_path / str(number))
        stored = anchored(reference)
        monkeypatch.chdir("/")
        assert stored == f"{tmp_path.resolve()}/{number}/./models/nets.py:found"
        assert anchored(stored) == stored
        assert found(stored)() == number


@pytest.mark.parametrize("reference", ["torch.nn:Linear", "numpy:zeros", "no_such_module:f"])
def test_an_installed_module_stays_what_it_is(reference):
    assert anchored(reference) == reference


def test_installed_packages_are_shared(tmp_path):
    folder = written(
        tmp_path, {"nets.py": "import numpy, safetensors\ndef found(): return safetensors\n"}, 0
    )
    assert found(f"{folder}/nets.py:found")() is sys.modules["safetensors"]


@pytest.mark.parametrize(
    ("name", "own", "answer"),
    [
        ("colorsys", "import colorsys\ndef found(): return colorsys.VALUE", 7),
        ("safetensors", "from safetensors import VALUE\ndef found(): return VALUE", 7),
        ("sys", "import sys\ndef found(): return sys.path", sys.path),
        ("torch", "def found(): return __import__('layers').VALUE", 7),
    ],
)
def test_a_file_named_as_an_installed_module_is_what_python_takes_it_for(
    tmp_path, name, own, answer
):
    other = written(tmp_path, {**PARTS, f"{name}.py": "VALUE = 7\n", "nets.py": own}, 7)
    assert found(f"{other}/nets.py:found")() == answer


def test_a_file_may_import_the_module_that_it_is_named_after(tmp_path):
    folder = written(
        tmp_path, {"safetensors.py": "import safetensors\ndef found(): return safetensors\n"}, 0
    )
    assert found(f"{folder}/safetensors.py:found")() is sys.modules["safetensors"]


@pytest.mark.parametrize("name", ["safetensors", "random", "torch"])
def test_what_fails_for_such_a_name_says_so(tmp_path, name):
    folder = written(tmp_path, {f"{name}.py": "", "nets.py": f"from {name} import not_there\n"}, 0)
    with pytest.raises(ConfigError, match=f"import {name} means .*/{name}.py, which has the name"):
        found(f"{folder}/nets.py:found")


def test_nothing_is_written_beside_a_users_files_and_no_bytecode_runs(tmp_path):
    folder = written(tmp_path, {**PARTS, "nets.py": WAYS[0]}, 1)
    planted = folder / "__pycache__" / f"nets.{sys.implementation.cache_tag}.pyc"
    planted.parent.mkdir()
    planted.write_bytes(b"not bytecode at all")
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert found(f"{folder}/nets.py:found")() == 1
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def raising(body: str, name: str = "Odd(Exception)") -> str:
    return f"class {name}:\n    def __str__(self): {body}\nraise Odd\n"


FAILURES = {
    "raise SystemExit(3)": "SystemExit: 3",
    "import sys; sys.exit('bye')": "SystemExit: bye",
    "def (:": r"SyntaxError: invalid syntax \(nets.py, line 1\)",
    "x = '\0'": "SyntaxError",
    "from __future__ import time_machine": "SyntaxError: future feature",
    "import other": r"cannot import name 'found' from partially initialized module 'nets'",
    "import not_a_module_at_all": "ModuleNotFoundError: No module named 'not_a_module_at_all'",
    "raise ValueError('x' * 10**7)": "ValueError: x{300,420}…",
    "raise ValueError('a\\x1b[2J\\r\\n\\0b\\u202e\\ud800')": r"ValueError: a\?\[2J \?b\?\?",
    "raise type('A\\x1bB', (Exception,), {})('m')": r"A\?B: m",
    "class Own(BaseException): pass\nraise Own('b')": "Own: b",
    "raise GeneratorExit": "GeneratorExit",
    "raise StopIteration": "StopIteration",
    "raise MemoryError": "MemoryError",
    "raise ExceptionGroup('g', [ValueError('a')])": "ExceptionGroup: g",
    "def f(): f()\nf()": "RecursionError",
    raising("raise RuntimeError('no')"): "Odd: its message cannot be shown",
    raising("raise SystemExit(1)", "Odd(BaseException)"): "Odd: its message cannot be shown",
    raising("return 3"): "Odd: its message cannot be shown",
    "def __getattr__(name): raise RuntimeError('lazy ' + name)": "RuntimeError: lazy found",
}


@pytest.mark.parametrize(("source", "said"), FAILURES.items())
def test_whatever_a_users_code_raises_is_one_sentence(tmp_path, source, said):
    files = {"nets.py": source, "other.py": "from nets import found\n"}
    reference = f"{written(tmp_path, files, 0)}/nets.py:found"
    with pytest.raises(ConfigError, match=said) as caught:
        found(reference)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 1000


def test_a_key_that_is_pressed_while_code_is_imported_is_no_fault_of_it(tmp_path):
    folder = written(tmp_path, {"nets.py": "raise KeyboardInterrupt\n"}, 0)
    with pytest.raises(KeyboardInterrupt):
        found(f"{folder}/nets.py:found")


@pytest.mark.parametrize("kind", ["pipe", "folder", "circle", "device", "unknown user", "nothing"])
def test_what_is_no_file_is_refused_at_once(tmp_path, kind):
    path = tmp_path / "nets.py"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "circle":
        path.symlink_to(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "unknown user":
        path = Path("~no_such_user_of_ours/nets.py")
    with pytest.raises(ConfigError, match="must be in a "):
        found(f"{path}:found")


NET = """
from layers import head
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = head()

    def forward(self, images):
        import lazy
        return lazy.FACTOR * self.head(images.flatten(1))
"""
NETWORK = {
    "nets.py": NET,
    "layers.py": "from torch import nn\ndef head(): return nn.Linear(4, 2)\n",
    "lazy.py": "FACTOR = {0}\n",
}
"""A project whose network says its number, by an import inside of `forward`."""

IN_A_PROCESS = """
import pickle, sys, torch
for network in pickle.load(open(sys.argv[1], "rb")):
    whole, head = network(torch.ones(1, 1, 2, 2)), network.head(torch.ones(1, 4))
    print(round(float(whole.sum() / head.sum())))
"""


@pytest.mark.process
def test_networks_of_two_projects_go_to_another_process_as_they_are(tmp_path):
    classes: list[Any] = [
        found(f"{written(tmp_path / str(number), NETWORK, number)}/nets.py:Net")
        for number in (2, 3)
    ]
    networks = [cls() for cls in classes]
    assert [type(copy.deepcopy(network)) for network in networks] == classes
    (tmp_path / "networks").write_bytes(pickle.dumps(networks))
    code = textwrap.dedent(IN_A_PROCESS)
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "networks"],
        cwd="/",
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["2", "3"]
