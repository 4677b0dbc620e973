"""What `import sparring` promises, and the README's example, run as it stands."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from torch import nn
from torch.nn.functional import cross_entropy

import sparring

README = Path(__file__).parents[1] / "README.md"


def test_the_public_names_are_all_there_once() -> None:
    assert len(sparring.__all__) == len(set(sparring.__all__))
    assert dir(sparring) == sorted(sparring.__all__)
    for name in sparring.__all__:
        assert getattr(sparring, name) is not None


def test_a_name_that_is_not_public_is_no_attribute() -> None:
    with pytest.raises(AttributeError, match="no attribute 'PGDD'"):
        getattr(sparring, "PGDD")  # noqa: B009 - what a misspelt name does


def test_importing_the_package_loads_no_torch() -> None:
    program = "import sys, sparring; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_the_readmes_examples_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    example, loop = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert len(example.split("\n")) <= 7  # five lines, an empty one, the end
    monkeypatch.chdir(tmp_path)
    exec(compile(example.replace(":200", ":20"), str(README), "exec"), {})
    assert len(re.findall(r"(\d+\.\d) % \[\d+\.\d, \d+\.\d\]", capsys.readouterr().out)) == 2
    names: dict[str, Any] = {"sparring": sparring, "cross_entropy": cross_entropy}
    names["model"] = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
    names["data"] = sparring.load_dataset("mnist")
    assert "updates=1000" in loop
    exec(compile(loop.replace("updates=1000", "updates=2"), str(README), "exec"), names)
    assert names["loader"].version == 2
