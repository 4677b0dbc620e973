"""What every test may rely on."""

import signal

# A shell ignores SIGINT, and nohup SIGHUP, for what it starts in the background, and an ignored
# signal stays ignored in children: tests that send signals must not depend on how they are started.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGTERM, signal.SIG_DFL)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
