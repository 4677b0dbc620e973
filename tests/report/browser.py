"""Chromium for tests of the page: the one installed on this machine, never downloaded."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

AXE = Path(__file__).parents[2] / ".venv" / "axe-core" / "axe.min.js"
"""The accessibility checker, as `.ci/browser` installs it."""


@contextmanager
def chromium(folder: Path) -> Iterator[Any]:
    """A browser whose files are all in `folder`; skips the test if none is installed.

    At the end of the block all its processes have ended.
    """
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    names = ("chromium", "chromium-browser", "google-chrome")
    browser = next(filter(None, map(shutil.which, names)), None)
    driver = shutil.which("chromedriver")
    if browser is None or driver is None:
        pytest.skip("no Chromium with its driver is installed here")
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for word in (
        "--headless=new",
        "--no-sandbox",  # without it Chromium does not start as root
        "--disable-dev-shm-usage",
        "--disable-gpu",
        "--disable-background-networking",
        "--disable-component-update",
        "--no-first-run",
        "--window-size=1000,900",
        f"--user-data-dir={folder / 'profile'}",
    ):
        options.add_argument(word)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    (folder / "tmp").mkdir()
    service = webdriver.ChromeService(
        executable_path=driver,
        env={**os.environ, "TMPDIR": str(folder / "tmp"), "HOME": str(folder)},
    )
    session = webdriver.Chrome(options=options, service=service)
    try:
        yield session
    finally:
        session.quit()
        assert service.process.poll() is not None
        shutil.rmtree(folder, ignore_errors=True)


def requested(session: Any) -> set[str]:
    """Addresses requested since the last call."""
    messages = (json.loads(entry["message"])["message"] for entry in session.get_log("performance"))
    return {
        message["params"]["request"]["url"]
        for message in messages
        if message["method"] == "Network.requestWillBeSent"
    }


def complaints(session: Any) -> list[str]:
    """Messages of the console since the last call."""
    return [entry["message"] for entry in session.get_log("browser")]


def emulate(session: Any, media: str = "", **features: str) -> None:
    """Show the page for this medium, with these preferences."""
    named = [{"name": name.replace("_", "-"), "value": v} for name, v in features.items()]
    session.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": media, "features": named})


def resize(session: Any, width: int) -> None:
    """Set the width of the page in pixels, as a telephone does; 0 for that of the window."""
    metrics = {"width": width, "height": 800 if width else 0, "deviceScaleFactor": 1}
    session.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {**metrics, "mobile": bool(width)}
    )


def forget(session: Any) -> None:
    """Delete everything that pages from the disk have stored."""
    wanted = {"origin": "file://", "storageTypes": "local_storage"}
    session.execute_cdp_cmd("Storage.clearDataForOrigin", wanted)
