"""What all tests may rely on."""

import atexit
import functools
import os
import shutil
import signal
import tempfile
from typing import Any

import jaxtyping
import pytest
from hypothesis import HealthCheck, settings
from jaxtyping import install_import_hook

# Every call of these packages checks the shapes and types of its arguments and its result.
# Records that `typed` wraps keep its sentences for wrong arguments only if it is hooked as well.
HOOKED = ("attacks", "bounds", "data", "evaluation", "models", "records.typed")
install_import_hook(
    [f"sparring.{package}" for package in HOOKED],
    "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))",
)

# Tests know no clock: a busy machine fails none.
settings.register_profile(
    "any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("any machine")

# What sparring keeps outside of runs (which code was trained with here) goes where tests may write.
# Processes that tests start inherit it.
_state = tempfile.mkdtemp(prefix="sparring-tests-")
atexit.register(shutil.rmtree, _state, ignore_errors=True)
os.environ["XDG_STATE_HOME"] = _state

# A shell ignores SIGINT, and nohup SIGHUP, for what it starts in the background, and an ignored
# signal stays ignored in children: tests that send signals must not depend on how they are started.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGTERM, signal.SIG_DFL)
signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(autouse=True, scope="session")
def _the_bundled_images_are_unpacked_once() -> None:
    """Unpacking MNIST takes most of the time of a run of a few updates."""
    from sparring.data import source  # not above: a module must not be imported before the tests

    source._part = functools.cache(source._part)


@pytest.fixture(autouse=True, scope="session")
def _traces_go_unchecked() -> None:
    """The checks of shapes at run time do not know the stand-ins of a trace."""
    from sparring.bounds import network
    from sparring.models import folding

    traced = network.traced

    def unchecked(*of: Any) -> Any:
        jaxtyping.config.update("jaxtyping_disable", True)
        try:
            return traced(*of)
        finally:
            jaxtyping.config.update("jaxtyping_disable", False)

    network.traced = folding.traced = unchecked


@pytest.fixture
def forked_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    """The processes of studies start in a moment."""
    from processes import CONTEXT
    from sparring.studies import processes

    monkeypatch.setattr(processes, "get_context", lambda method: CONTEXT)


@pytest.fixture
def forked_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine's workers start in a moment. Their real start is tested in test_process.py."""
    from processes import CONTEXT
    from sparring.engine.transports import process

    monkeypatch.setattr(process, "get_context", lambda method: CONTEXT)
    # The parent of such a worker is the process that it is forked from.
    monkeypatch.setattr(process, "ParentDeathGuard", lambda parent: None)
