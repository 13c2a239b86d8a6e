"""Load a page in Chromium, if it is installed."""

from __future__ import annotations

import shutil
import subprocess
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

CHROMIUM_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


def load_page(page: Path, profile_folder: Path) -> tuple[str, list[str]]:
    """Return (the page's DOM as HTML, the paths it requested), or skip the test without Chromium.

    profile_folder: an empty folder for the browser.
    """
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if not chromium:
        pytest.skip("Chromium is not installed")
    paths = []

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *_) -> None:
            paths.append(self.path)

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(page.parent))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/{page.name}"
        command = [chromium, *CHROMIUM_FLAGS, f"--user-data-dir={profile_folder}", "--dump-dom", url]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        finally:
            server.shutdown()
    assert done.returncode == 0, done.stderr
    return done.stdout, paths
