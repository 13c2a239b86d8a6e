"""The page of labeling, served on 127.0.0.1 alone, to whoever has the address with its random token.

Besides the token, the host of each request is checked, so that no other page can reach the server by a name of its own
that resolves to 127.0.0.1 (DNS rebinding); there are no headers that would allow other pages to read an answer.
"""

from __future__ import annotations

import io
import json
import secrets
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar
from urllib.parse import urlsplit

from data.tasks.answers import ROLES
from engine.errors import UserError
from engine.files import describe_os_error
from engine.html import render, shorten
from label.items import Item
from label.session import RefusedError, Session

HOSTS = ("127.0.0.1", "localhost")
MAX_BODY_BYTES, MAX_LENGTH_DIGITS = 2**16, 9
THUMBNAIL_SIDE = 640  # pixels
MAX_TEXT_CHARS, MAX_NEAREST_CHARS = 20_000, 300
HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline';"
    " img-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class Pages:
    """What the server answers. The session is used by one request at a time."""

    def __init__(self, session: Session, title: str):
        self.session, self.title = session, title
        self.lock, self.finished = threading.Lock(), threading.Event()
        self.images = {item.id: item for item in session.items if item.load}
        self.ids = {item.text: item.id for item in self.images.values()}

    def page(self) -> str:
        """Return the page, which has no row in it."""
        return render("label/page.html.j2", title=self.title)

    def show(self, text: str, limit: int) -> dict:
        """Return {"text"}, or {"image", "text"} of an image."""
        if text in self.ids:
            return {"text": text, "image": f"image/{self.ids[text]}"}
        return {"text": shorten(text, limit)}

    def describe(self, item: Item) -> dict:
        """Return a row for the page."""
        session, suggestion = self.session, {}
        if session.suggest and item.suggestion and item.role != "measure":
            suggestion = {"suggestion": item.suggestion, "probability": item.probability}
        nearest = [{**self.show(text, MAX_NEAREST_CHARS), "label": label} for text, label in session.nearest(item)]
        cluster = len(session.list_cluster(item.id))
        shown = self.show(item.text, MAX_TEXT_CHARS)
        assert item.role in ROLES
        before = session.find_label(item)
        return {
            **{"id": item.id, "role": item.role, "reason": item.reason, "cluster": cluster, "nearest": nearest},
            **({"before": before} if before else {}),
            **shown,
            **suggestion,
        }

    def state(self) -> dict:
        """Return all that the page shows."""
        session, item = self.session, self.session.current()
        described = self.describe(item) if item else None  # before the classes are listed
        return {
            "item": described,
            "classes": [{"name": name, "description": session.descriptions.get(name, "")} for name in session.classes],
            "progress": session.progress(),
            "file": str(session.store.path),
            "is_full": session.is_full,
        }

    def get(self, path: str) -> tuple[str, bytes]:
        """Return (type, content) of a path. Raises KeyError for one there is not."""
        if path == "":
            return "text/html; charset=utf-8", self.page().encode("utf-8", "replace")
        if path == "state":
            with self.lock:
                return to_json(self.state())
        kind, _, number = path.partition("/")
        if kind == "image" and number.isdecimal():
            return "image/jpeg", thumbnail(self.images[int(number)])
        if kind == "cluster" and number.isdecimal():
            with self.lock:
                items = self.session.list_cluster(int(number))
                sample = self.session.sample_cluster(int(number)) if items else []
            shown = [self.show(item.text, MAX_NEAREST_CHARS) for item in sample]
            return to_json({"count": len(items), "items": shown})
        raise KeyError(path)

    def post(self, path: str, body: dict) -> tuple[str, bytes]:
        """Return (type, content) after an action. Raises KeyError or RefusedError for a wrong one."""
        session = self.session
        with self.lock:
            if path == "answer":
                session.answer(body["id"], str(body["answer"]), str(body.get("label", "")))
            elif path == "cluster":
                session.answer_cluster(body["id"], str(body["label"]), body["count"])
            elif path == "undo":
                session.undo()
            elif path != "finish":
                raise KeyError(path)
            return to_json(self.state())


def to_json(content: dict) -> tuple[str, bytes]:
    """Return (type, content) of JSON."""
    return "application/json", json.dumps(content).encode()


def thumbnail(item: Item) -> bytes:
    """Return the image of a row as JPEG, scaled down. Raises DataError for one that cannot be read."""
    image = item.load()
    image = image.convert("RGB")
    image.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG")
    return buffer.getvalue()


class Handler(BaseHTTPRequestHandler):
    """Answers requests with the right token and host; all others get 403."""

    server_version, sys_version = "headstart", ""
    timeout: ClassVar[int] = 60  # seconds without a request after which a connection is closed
    server: Server

    def log_message(self, *_) -> None:
        """Log nothing: the address has the token."""

    def find_path(self) -> str | None:
        """Return the path after the token, None for a request that is not allowed."""
        host = (self.headers.get("Host") or "").rpartition(":")[0] or self.headers.get("Host")
        try:
            origin = urlsplit(self.headers.get("Origin") or "http://127.0.0.1").hostname
        except ValueError:  # no address, as http://[
            return None
        token, _, path = self.path.partition("?")[0].removeprefix("/").partition("/")
        is_known = secrets.compare_digest(token.encode(), self.server.token.encode())
        return path if is_known and host in HOSTS and origin in HOSTS else None

    def answer(self, status: int, kind: str, content: bytes) -> None:
        """Send a response."""
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(content)), **HEADERS}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def run(self, action, *args) -> None:
        """Answer with what an action returns, or with the error in a line."""
        try:
            self.answer(200, *action(*args))
        except KeyError:
            self.answer(404, "text/plain", b"no such page")
        except (TypeError, ValueError):
            self.answer(400, "text/plain", b"not understood")
        except RefusedError as error:
            self.answer(409, "text/plain; charset=utf-8", str(error).encode())
        except (UserError, OSError) as error:
            message = str(error) if isinstance(error, UserError) else describe_os_error(error) or str(error)
            self.answer(500, "text/plain; charset=utf-8", message.encode("utf-8", "replace"))

    def do_GET(self) -> None:  # noqa: N802  the name that http.server calls
        """Answer a page, the state or a picture."""
        path = self.find_path()
        if path is None:
            self.answer(403, "text/plain", b"the address needs the token that the command printed")
        else:
            self.run(self.server.pages.get, path)

    do_HEAD = do_GET  # noqa: N815

    def do_POST(self) -> None:  # noqa: N802  the name that http.server calls
        """Answer an action."""
        path, length = self.find_path(), self.headers.get("Content-Length") or ""
        if path is None:
            return self.answer(403, "text/plain", b"the address needs the token that the command printed")
        is_json = (self.headers.get("Content-Type") or "").startswith("application/json")
        is_number = length.isdecimal() and len(length) <= MAX_LENGTH_DIGITS
        if not is_number or int(length) > MAX_BODY_BYTES or not is_json:
            return self.answer(400, "text/plain", b"not understood")
        try:
            body = json.loads(self.rfile.read(int(length)))
        except (ValueError, RecursionError):
            body = None
        if not isinstance(body, dict):
            return self.answer(400, "text/plain", b"not understood")
        self.run(self.server.pages.post, path, body)
        if path == "finish":  # after the response
            self.server.pages.finished.set()
        return None


class Server(ThreadingHTTPServer):
    """The server of one session on 127.0.0.1."""

    daemon_threads = True

    def __init__(self, pages: Pages, port: int = 0):
        super().__init__((HOSTS[0], port), Handler)
        self.pages, self.token = pages, secrets.token_urlsafe(24)

    def handle_error(self, request, client_address) -> None:
        """Print an error, but not of a connection that the browser closed, as of a picture it shows no more."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)

    @property
    def address(self) -> str:
        """The address of the page, with the token."""
        return f"http://{HOSTS[0]}:{self.server_port}/{self.token}/"


def serve(pages: Pages, port: int, announce) -> None:
    """Serve until the page is finished. announce: called with the address.

    Raises OSError for a port that is taken.
    """
    with Server(pages, port) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.1,), daemon=True)
        thread.start()
        announce(server.address)
        try:
            while not pages.finished.wait(0.2):
                pass
        finally:
            server.shutdown()
            thread.join()
