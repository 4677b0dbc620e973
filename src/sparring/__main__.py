"""`python -m sparring`: the command line without the installed script."""

import os
import sys


def _current() -> str:
    try:
        return os.getcwd()  # noqa: PTH109 - pathlib would be imported from that folder
    except OSError:
        return ""


if __name__ == "__main__":
    # Python puts the current folder first, so that a torch.py there would be taken for PyTorch. The
    # installed command does not, and finds code in the current folder all the same.
    if not sys.flags.safe_path and sys.path[:1] == [_current()]:
        del sys.path[0]
    from sparring.cli.main import main

    raise SystemExit(main())
