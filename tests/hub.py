"""A hub on loopback that serves folders as models and datasets: what `huggingface_hub` asks to download, nothing more."""

from __future__ import annotations

import hashlib
import json
import re
import threading
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "1" * 40


class Hub(ThreadingHTTPServer):
    """`with Hub({"models/owner/name": folder}) as hub:` serves at `hub.url`; `hub.asked` lists the requests."""

    daemon_threads = True

    def __init__(self, folders: dict[str, Path]):
        super().__init__(("127.0.0.1", 0), Handler)
        self.folders, self.asked = folders, []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    @property
    def environment(self) -> dict[str, str]:
        """For a process that is to use this hub."""
        return {"HF_ENDPOINT": self.url, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_XET": "1"}

    def __enter__(self):
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.shutdown()
        self.server_close()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self, code: int, body: bytes, **headers: str) -> None:
        self.send_response(code)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def tell(self, content: object) -> None:
        self.answer(200, json.dumps(content).encode(), Content_Type="application/json")

    def missing(self, what: str) -> None:
        self.answer(404, b"{}", X_Error_Code=what, X_Repo_Commit=COMMIT)

    def handle_any(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = urllib.parse.unquote(urllib.parse.urlsplit(self.path).path)
        self.server.asked.append(f"{self.command} {path}")
        api = re.fullmatch(r"/api/(models|datasets)/([^/]+/[^/]+)(?:/(.*))?", path)
        file = re.fullmatch(r"/(?:(datasets)/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        kind, name = (api[1], api[2]) if api else (file[1] or "models", file[2]) if file else ("", "")
        folder = self.server.folders.get(f"{kind}/{name}")
        if folder is None:
            return self.missing("RepoNotFound")
        entries = {str(found.relative_to(folder)): found for found in sorted(folder.rglob("*")) if found.is_file()}
        if file:
            if file[4] not in entries:
                return self.missing("EntryNotFound")
            content = entries[file[4]].read_bytes()
            tag = f'"{hashlib.sha256(content).hexdigest()}"'
            bounds = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
            if not bounds:
                return self.answer(200, content, ETag=tag, X_Repo_Commit=COMMIT, Accept_Ranges="bytes")
            first, last = int(bounds[1]), min(int(bounds[2] or len(content)), len(content) - 1)
            return self.answer(206, content[first:last + 1], ETag=tag, X_Repo_Commit=COMMIT,
                               Content_Range=f"bytes {first}-{last}/{len(content)}")

        def described(entry: str) -> dict:
            content = entries[entry].read_bytes()
            return {"type": "file", "path": entry, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}

        rest = api[3] or ""
        if rest.startswith("paths-info/"):
            form = urllib.parse.parse_qs(body.decode())
            wanted = json.loads(body)["paths"] if body.startswith(b"{") else form.get("paths", [])
            return self.tell([described(entry) for entry in wanted if entry in entries])
        if rest.startswith("tree/"):
            return self.tell([described(entry) for entry in entries])
        if rest == "" or rest.startswith("revision/"):
            return self.tell({"_id": "1", "id": name, "modelId": name, "sha": COMMIT, "private": False, "tags": [],
                              "downloads": 0, "likes": 0, "lastModified": "2026-01-01T00:00:00.000Z",
                              "createdAt": "2026-01-01T00:00:00.000Z",
                              "siblings": [{"rfilename": entry} for entry in entries]})
        return self.missing("EntryNotFound")

    do_GET = do_HEAD = do_POST = handle_any
