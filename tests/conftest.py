"""What every test may rely on."""

import atexit
import functools
import os
import shutil
import signal
import tempfile

import pytest

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
    from sparring.data import source  # not above: tests check types from their first import on

    source._part = functools.cache(source._part)
