"""A real browser, where there is one: what a page shows once it is loaded, and all it asked for."""

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
    """(the page's DOM as HTML, the paths it asked its server for). Skips where no Chromium is installed.

    profile_folder: an empty folder for the browser.
    """
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if not chromium:
        pytest.skip("no chromium on this machine")
    asked = []

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, form: str, *values) -> None:
            asked.append(self.path)

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(page.parent))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            told = subprocess.run(
                [
                    chromium,
                    *CHROMIUM_FLAGS,
                    f"--user-data-dir={profile_folder}",
                    "--dump-dom",
                    f"http://127.0.0.1:{server.server_port}/{page.name}",
                ],
                capture_output=True,
                text=True,
                timeout=120,
            )
        finally:
            server.shutdown()
    assert told.returncode == 0, told.stderr
    return told.stdout, asked
