"""Load a page in Chromium, if it is installed."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import threading
import time
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


def find_chromium() -> str:
    """Return the path of Chromium, or skip the test without it."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if not chromium:
        pytest.skip("Chromium is not installed")
    return chromium


class Browser:
    """A page in Chromium that gets keys, by the DevTools protocol over pipes (no package is needed for that)."""

    def __init__(self, profile_folder: Path):
        command = [find_chromium(), *CHROMIUM_FLAGS, f"--user-data-dir={profile_folder}", "--remote-debugging-pipe"]
        theirs_in, self.to_browser = os.pipe()
        self.from_browser, theirs_out = os.pipe()

        def connect() -> None:  # in the child: its ends of the pipes are the files 3 and 4
            ends = os.dup(theirs_in), os.dup(theirs_out)
            for number, end in enumerate(ends, 3):
                os.dup2(end, number)
                os.set_inheritable(number, True)  # also of one that had this number already

        self.process = subprocess.Popen(
            command, close_fds=False, preexec_fn=connect, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        os.close(theirs_in)
        os.close(theirs_out)
        self.number, self.buffer, self.requests = 0, b"", []
        target = self.call("Target.createTarget", {"url": "about:blank"})["targetId"]
        self.session = self.call("Target.attachToTarget", {"targetId": target, "flatten": True})["sessionId"]
        self.call("Network.enable")

    def receive(self) -> dict:
        """Return the next message."""
        while b"\0" not in self.buffer:
            part = os.read(self.from_browser, 2**16)
            assert part, "the browser has ended"
            self.buffer += part
        message, _, self.buffer = self.buffer.partition(b"\0")
        return json.loads(message)

    def call(self, method: str, params: dict | None = None) -> dict:
        """Return the result of a method."""
        self.number += 1
        message = {"id": self.number, "method": method, "params": params or {}}
        message |= {"sessionId": self.session} if hasattr(self, "session") else {}
        os.write(self.to_browser, json.dumps(message).encode() + b"\0")
        while (found := self.receive()).get("id") != self.number:
            if found.get("method") == "Network.requestWillBeSent":
                self.requests.append(found["params"]["request"]["url"])
        assert "result" in found, found
        return found["result"]

    def open(self, url: str) -> None:
        """Load a page."""
        self.call("Page.navigate", {"url": url})

    def press(self, key: str) -> None:
        """Press a key: a character, Enter, Escape or Backspace."""
        text = {"Enter": "\r"}.get(key, key if len(key) == 1 else "")
        self.call("Input.dispatchKeyEvent", {"type": "keyDown", "key": key, "text": text})
        self.call("Input.dispatchKeyEvent", {"type": "keyUp", "key": key})

    def evaluate(self, script: str) -> object:
        """Return the value of a script."""
        options = {"expression": script, "returnByValue": True, "awaitPromise": True}
        return self.call("Runtime.evaluate", options)["result"].get("value")

    def wait_for(self, script: str, seconds: float = 60) -> object:
        """Return the value of a script once it is true."""
        end = time.monotonic() + seconds
        while not (value := self.evaluate(script)):
            assert time.monotonic() < end, (script, self.evaluate("document.body.innerText"))
            time.sleep(0.01)
        return value

    def screenshot(self, path: Path) -> None:
        """Write a picture of the page."""
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot")["data"]))

    def close(self) -> None:
        """End the browser."""
        self.process.terminate()
        self.process.wait(30)
        os.close(self.to_browser)
        os.close(self.from_browser)


def load_page(page: Path, profile_folder: Path) -> tuple[str, list[str]]:
    """Return (the page's DOM as HTML, the paths it requested), or skip the test without Chromium.

    profile_folder: an empty folder for the browser.
    """
    chromium, paths = find_chromium(), []

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
