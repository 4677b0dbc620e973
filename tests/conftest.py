"""What every test may rely on."""

import atexit
import os
import shutil
import signal
import tempfile

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
