"""A hub on loopback, as far as `huggingface_hub` asks for it: folders to download, repositories to make, fill and tag.

    with Hub({"models/owner/name": folder}) as hub:      served as they lie there
        ... hub.url, hub.environment ...
        hub.asked                                        every request, "POST /api/repos/create"
        hub.repositories["models/me/new"]                what was uploaded
        hub.fail("PUT /lfs/", 500, times=3)              the next requests like that are answered so
        hub.cut("PUT /lfs/", after=1000)                 or the connection breaks after so many bytes of them
        hub.lose("POST .*/commit/")                      or they are done, but the answer is lost
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
import socket
import threading
import urllib.parse
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import yaml

TOKEN, USER = "hf_" + "t" * 30, "me"
LFS = (".safetensors", ".png")
"""Endings of files that are uploaded apart from the commit."""


def git_oid(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@dataclass
class Repository:
    """Commits are whole: {name of a file: its content, or the path it is read from}."""

    private: bool = False
    commits: dict[str, dict[str, bytes | Path]] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)

    def commit(self, branch: str, files: dict[str, bytes | Path], message: str) -> str:
        oid = hashlib.sha1(f"{len(self.commits)}{message}".encode()).hexdigest()
        self.commits[oid], self.branches[branch] = files, oid
        self.messages.append(message)
        return oid

    def find(self, revision: str) -> str | None:
        """The commit that a branch, a tag or itself names."""
        oid = self.branches.get(revision) or self.tags.get(revision) or revision
        return oid if oid in self.commits else None

    def files(self, revision: str = "main") -> dict[str, bytes]:
        return {name: content if isinstance(content, bytes) else content.read_bytes()
                for name, content in self.commits[self.find(revision)].items()}


@dataclass
class Fault:
    """What becomes of the next requests like `pattern` instead."""

    pattern: str
    times: int
    code: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    after: int | None = None
    """Bytes read before the connection breaks; None: all, and the request is done."""


class Hub(ThreadingHTTPServer):
    """See above. Whoever has the token is the user `me`, and may write to what is the user's own."""

    daemon_threads = True

    def __init__(self, folders: dict[str, Path] = {}):
        super().__init__(("127.0.0.1", 0), Handler)
        self.repositories, self.lfs, self.asked, self.faults = {}, {}, [], []
        for name, folder in folders.items():
            self.repositories[name] = Repository()
            files = {str(path.relative_to(folder)): path for path in sorted(folder.rglob("*")) if path.is_file()}
            self.repositories[name].commit("main", files, "as it was")

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    @property
    def environment(self) -> dict[str, str]:
        """For a process that is to use this hub."""
        return {"HF_ENDPOINT": self.url, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_TELEMETRY": "1", "HF_TOKEN": TOKEN}

    def fail(self, pattern: str, code: int, times: int = 1, **headers: str) -> None:
        self.faults.append(Fault(pattern, times, code, headers))

    def cut(self, pattern: str, after: int, times: int = 1) -> None:
        self.faults.append(Fault(pattern, times, after=after))

    def lose(self, pattern: str, times: int = 1) -> None:
        self.faults.append(Fault(pattern, times))

    def count(self, pattern: str) -> int:
        """How many requests were like `pattern`."""
        return sum(bool(re.search(pattern, request)) for request in self.asked)

    def __enter__(self):
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.shutdown()
        self.server_close()

    def handle_error(self, request, client_address) -> None:
        """A client that went away is no error of ours."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self, code: int, body: bytes = b"{}", **headers: str) -> None:
        self.send_response(code)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def tell(self, content: object, code: int = 200, **headers: str) -> None:
        self.answer(code, json.dumps(content).encode(), Content_Type="application/json", **headers)

    def missing(self, what: str) -> None:
        self.answer(404, X_Error_Code=what)

    def body(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def handle_any(self) -> None:
        path = urllib.parse.unquote(urllib.parse.urlsplit(self.path).path)
        request = f"{self.command} {path}"
        self.server.asked.append(request)
        fault = next((fault for fault in self.server.faults if fault.times and re.search(fault.pattern, request)), None)
        if fault:
            fault.times -= 1
            if fault.code:
                self.body()
                return self.answer(fault.code, **fault.headers)
            if fault.after is None:
                self.wfile = io.BytesIO()
                self.route(request, self.body())
            else:
                self.rfile.read(min(fault.after, int(self.headers.get("Content-Length") or 0)))
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True
            return None
        return self.route(request, self.body())

    def route(self, request: str, body: bytes) -> None:
        for pattern, method in ROUTES:
            if found := re.fullmatch(pattern, request):
                return method(self, body, *found.groups())
        return self.missing("EntryNotFound")

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = handle_any

    # ---- who asks, and for what -------------------------------------------------------------------------------------

    def known(self) -> bool:
        """Whether a token was sent that is the user's; none may read, a wrong one may nothing."""
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def repository(self, kind: str | None, name: str, writing: bool = False) -> Repository | None:
        """The repository, or None after an answer that says why not."""
        found = self.server.repositories.get(f"{kind or 'models'}/{name}")
        if "Authorization" in self.headers and not self.known() or writing and not self.known():
            self.answer(401, X_Error_Message="Invalid credentials in Authorization header")
        elif found is None or found.private and not self.known():
            self.missing("RepoNotFound")
        elif writing and not name.startswith(f"{USER}/"):
            self.answer(403, X_Error_Message="You don't have the rights to write here")
        else:
            return found
        return None

    def create(self, body: bytes) -> None:
        asked = json.loads(body)
        name = f"{asked['organization'] or USER}/{asked['name']}"
        if not self.known():
            return self.answer(401, X_Error_Message="Invalid credentials in Authorization header")
        if not name.startswith(f"{USER}/"):
            return self.answer(403, X_Error_Message="You don't have the rights to create a model under this namespace")
        if f"models/{name}" in self.server.repositories:
            return self.answer(409)
        made = self.server.repositories[f"models/{name}"] = Repository(asked.get("visibility") == "private")
        made.commit("main", {".gitattributes": b"*.safetensors filter=lfs\n"}, "initial commit")
        self.tell({"url": f"{self.server.url}/{name}"})

    def validate(self, body: bytes) -> None:
        """The rules of the hub's front matter that matter to us."""
        front = re.match(r"---\n(.*?)\n---\n", json.loads(body)["content"], re.DOTALL)
        told, errors = yaml.safe_load(front[1]) if front else {}, []
        for result in [result for model in told.get("model-index", []) for result in model["results"]]:
            for key, needed in (("task", ("type",)), ("dataset", ("type", "name"))):
                errors += [f'"{key}.{part}" is required' for part in needed if not result.get(key, {}).get(part)]
            errors += ['"metrics" needs type and value' for metric in result["metrics"]
                       if not {"type", "value"} <= metric.keys()]
        if told.get("license") == "other" and "license_name" not in told:
            errors.append('"license_name" is required')
        self.tell({"errors": [{"message": error} for error in errors], "warnings": []}, 400 if errors else 200)

    # ---- reading ----------------------------------------------------------------------------------------------------

    def look(self, body: bytes, kind: str, name: str, rest: str | None) -> None:
        found = self.repository(kind, name)
        if found is None:
            return None
        what, _, more = (rest or "revision/main").partition("/")
        if what == "refs":
            def listed(references: dict[str, str]) -> list[dict]:
                return [{"name": key, "ref": key, "targetCommit": oid} for key, oid in references.items()]

            return self.tell({"branches": listed(found.branches), "tags": listed(found.tags), "converts": []})
        commit = found.find(more.partition("/")[0]) if what == "tree" else found.find(more)
        if commit is None:
            return self.missing("RevisionNotFound")
        files = found.files(commit)
        if what == "tree":
            return self.tell([self.entry(file, content) for file, content in files.items()])
        if what == "paths-info":
            form = urllib.parse.parse_qs(body.decode())
            wanted = json.loads(body)["paths"] if body.startswith(b"{") else form.get("paths", [])
            return self.tell([self.entry(file, files[file]) for file in wanted if file in files])
        if what == "revision":
            return self.tell({"_id": "1", "id": name, "modelId": name, "sha": commit, "private": found.private, "tags": [],
                              "downloads": 0, "likes": 0, "lastModified": "2026-01-01T00:00:00.000Z",
                              "createdAt": "2026-01-01T00:00:00.000Z",
                              "siblings": [{"rfilename": file} for file in files]})
        return self.missing("EntryNotFound")

    def entry(self, name: str, content: bytes) -> dict:
        lfs = {"lfs": {"oid": sha256(content), "size": len(content), "pointerSize": 130}} if name.endswith(LFS) else {}
        return {"type": "file", "path": name, "size": len(content), "oid": git_oid(content), **lfs}

    def download(self, body: bytes, kind: str | None, name: str, revision: str, file: str) -> None:
        found = self.repository(kind, name)
        if found is None:
            return None
        commit = found.find(revision)
        if commit is None:
            return self.missing("RevisionNotFound")
        content = found.files(commit).get(file)
        if content is None:
            return self.answer(404, X_Error_Code="EntryNotFound", X_Repo_Commit=commit)
        told = {"ETag": f'"{sha256(content)}"', "X_Repo_Commit": commit}
        bounds = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if not bounds:
            return self.answer(200, content, Accept_Ranges="bytes", **told)
        first, last = int(bounds[1]), min(int(bounds[2] or len(content)), len(content) - 1)
        return self.answer(206, content[first:last + 1], Content_Range=f"bytes {first}-{last}/{len(content)}", **told)

    # ---- writing ----------------------------------------------------------------------------------------------------

    def before_upload(self, body: bytes, name: str, revision: str) -> None:
        if self.repository("models", name, writing=True):
            self.tell({"files": [{"path": file["path"], "uploadMode": "lfs" if file["path"].endswith(LFS) else "regular",
                                  "shouldIgnore": False} for file in json.loads(body)["files"]]})

    def batch(self, body: bytes, name: str) -> None:
        if self.repository("models", name, writing=True):
            self.tell({"transfer": "basic", "objects": [
                {"oid": each["oid"], "size": each["size"], **({} if each["oid"] in self.server.lfs else {
                    "actions": {"upload": {"href": f"{self.server.url}/lfs/{each['oid']}"}}})}
                for each in json.loads(body)["objects"]]})

    def store(self, body: bytes, oid: str) -> None:
        if sha256(body) != oid:
            return self.answer(400)
        self.server.lfs[oid] = body
        self.answer(200)

    def commit(self, body: bytes, name: str, branch: str) -> None:
        found = self.repository("models", name, writing=True)
        if found is None:
            return None
        head, *changes = map(json.loads, body.splitlines())
        if branch not in found.branches:
            return self.missing("RevisionNotFound")
        if head["value"].get("parentCommit", found.branches[branch]) != found.branches[branch]:
            return self.answer(412, X_Error_Message="A commit has happened since. Please refresh and try again.")
        files = dict(found.commits[found.branches[branch]])
        for change in changes:
            told = change["value"]
            if change["key"] == "deletedFile":
                del files[told["path"]]
            else:
                files[told["path"]] = (self.server.lfs[told["oid"]] if change["key"] == "lfsFile" else
                                       base64.b64decode(told["content"]))
        oid = found.commit(branch, files, head["value"]["summary"])
        self.tell({"success": True, "commitOid": oid, "commitUrl": f"{self.server.url}/{name}/commit/{oid}"})

    def refer(self, body: bytes, name: str, kind: str, revision: str) -> None:
        if found := self.repository("models", name, writing=True):
            if kind == "tag":
                found.tags[json.loads(body)["tag"]] = found.find(revision)
            else:
                found.branches[revision] = found.branches["main"]
            self.answer(200)


ROUTES = (
    (r"POST /api/repos/create", Handler.create),
    (r"POST /api/validate-yaml", Handler.validate),
    (r"POST /api/models/([^/]+/[^/]+)/preupload/(.+)", Handler.before_upload),
    (r"POST /([^/]+/[^/]+)\.git/info/lfs/objects/batch", Handler.batch),
    (r"PUT /lfs/(\w+)", Handler.store),
    (r"POST /api/models/([^/]+/[^/]+)/commit/(.+)", Handler.commit),
    (r"POST /api/models/([^/]+/[^/]+)/(tag|branch)/(.+)", Handler.refer),
    (r"\w+ /api/(models|datasets)/([^/]+/[^/]+)(?:/(.*))?", Handler.look),
    (r"\w+ /(?:(datasets)/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)", Handler.download),
)
