"""The files in deploy/ fit each other, the tools that read them and the command line."""

import os
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest

from docs.blocks import ROOT
from sparring.cli.main import main

DEPLOY = ROOT / "deploy"
FILES = sorted(path for path in DEPLOY.rglob("*") if path.is_file())


def documents(name: str) -> list[Any]:
    yaml = pytest.importorskip("yaml", reason="the extra ray is not installed")
    return list(yaml.safe_load_all((DEPLOY / name).read_text()))


def pinned(package: str) -> str:
    (line,) = re.findall(rf"(?m)^{package}==(\S+)$", (ROOT / "constraints.txt").read_text())
    return line


def commands() -> list[str]:
    text = "\n".join(path.read_text() for path in FILES)
    found = re.findall(r"(?<!`)sparring train(?: (?:--?[\w-]+|[\w./:-]+))+", text)
    return [command for command in found if "--resume" not in command]


def test_every_command_in_them_means_something(capsys):
    assert len(commands()) >= 2
    for command in commands():
        assert main([*shlex.split(command)[1:], "--dry-run"]) == 0, command
        assert '"kind": "Ray"' in capsys.readouterr().out


def test_ray_reads_the_cluster_of_hosts():
    pytest.importorskip("ray", reason="the extra ray is not installed")
    from ray.autoscaler._private.util import prepare_config, validate_config

    (hosts,) = documents("ray/hosts.yaml")
    hosts["file_mounts"]["~/.ray/auth_token"] = str(
        ROOT / "constraints.txt"
    )  # any file that exists
    validate_config(prepare_config(hosts))
    with pytest.raises(Exception, match="head_ip"):
        validate_config(hosts | {"provider": {"type": "local"}})


def test_the_job_on_kubernetes_mounts_what_it_claims_and_has_one_image():
    claim, job = documents("ray/kuberay.yaml")
    spec = job["spec"]["rayClusterSpec"]
    head = spec["headGroupSpec"]["template"]["spec"]
    pods = [head, *(group["template"]["spec"] for group in spec["workerGroupSpecs"])]
    assert len({container["image"] for pod in pods for container in pod["containers"]}) == 1
    (volume,) = head["volumes"]
    assert volume["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
    (mount,) = head["containers"][0]["volumeMounts"]
    assert mount["name"] == volume["name"]
    assert job["spec"]["entrypoint"].count(f"{mount['mountPath']}/cluster") == 3
    assert spec["workerGroupSpecs"][0]["replicas"] == 8
    assert "--workers 8 " in job["spec"]["entrypoint"]


def test_every_node_has_the_version_of_ray_that_we_test_with():
    _, job = documents("ray/kuberay.yaml")
    assert job["spec"]["rayClusterSpec"]["rayVersion"] == pinned("ray")
    bases = re.findall(r"rayproject/ray:([\d.]+)-py311", (DEPLOY / "Containerfile").read_text())
    assert len(bases) == 2
    assert set(bases) == {pinned("ray")}


def started(tmp_path: Path, *words: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """deploy/torchrun.sh with a torchrun that only says how it was called."""
    stub = tmp_path / "torchrun"
    stub.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    stub.chmod(0o755)
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"} | settings
    command = [str(DEPLOY / "torchrun.sh"), *words]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_trainers_meet_at_the_head(tmp_path):
    done = started(tmp_path, "--out", "a b", HOSTS="2", HEAD="alpha", TRAINERS="4", PORT="7")
    words = done.stdout.splitlines()
    assert words[words.index("--nnodes") + 1] == "2"
    assert words[words.index("--nproc-per-node") + 1] == "4"
    assert words[words.index("--rdzv-endpoint") + 1] == "alpha:7"
    assert words[-4:] == ["sparring", "train", "--out", "a b"]
    alone = started(tmp_path).stdout.splitlines()
    assert alone[alone.index("--rdzv-endpoint") + 1] == "localhost:29400"


def test_hosts_without_a_head_are_refused(tmp_path):
    done = started(tmp_path, HOSTS="2")
    assert (done.returncode, done.stdout) == (2, "")
    assert "HEAD must name the host of trainer 0" in done.stderr
