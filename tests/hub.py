"""A hub on loopback, as far as `huggingface_hub` asks for it: folders to download, repositories to make, fill and tag.

with Hub({"models/owner/name": folder}) as hub:      served as they lie there
    ... hub.url, hub.environment ...
    hub.requests                                        every request, "POST /api/repos/create"
    hub.repositories["models/me/new"]                what was uploaded
    hub.fail_requests("PUT /lfs/", 500, times=3)              the next requests like that are answered so
    hub.cut_connection("PUT /lfs/", after=1000)                 or the connection breaks after so many bytes of them
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
LFS_SUFFIXES = (".safetensors", ".png")
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

    def resolve_revision(self, revision: str) -> str | None:
        """The commit that a branch, a tag or itself names."""
        oid = self.branches.get(revision) or self.tags.get(revision) or revision
        return oid if oid in self.commits else None

    def files(self, revision: str = "main") -> dict[str, bytes]:
        return {
            name: content if isinstance(content, bytes) else content.read_bytes()
            for name, content in self.commits[self.resolve_revision(revision)].items()
        }


@dataclass
class Fault:
    """What becomes of the next requests like `pattern` instead."""

    pattern: str
    remaining: int
    status_code: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    cut_after_bytes: int | None = None
    """Bytes read before the connection breaks; None: all, and the request is done."""


class HubServer(ThreadingHTTPServer):
    """See above. Whoever has the token is the user `me`, and may write to what is the user's own."""

    daemon_threads = True

    def __init__(self, folders: dict[str, Path] = {}):
        super().__init__(("127.0.0.1", 0), Handler)
        self.repositories, self.lfs_objects, self.requests, self.faults = {}, {}, [], []
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

    def fail_requests(self, pattern: str, status_code: int, times: int = 1, **headers: str) -> None:
        self.faults.append(Fault(pattern, times, status_code, headers))

    def cut_connection(self, pattern: str, after: int, times: int = 1) -> None:
        self.faults.append(Fault(pattern, times, cut_after_bytes=after))

    def lose_response(self, pattern: str, times: int = 1) -> None:
        self.faults.append(Fault(pattern, times))

    def count_requests(self, pattern: str) -> int:
        """How many requests were like `pattern`."""
        return sum(bool(re.search(pattern, request)) for request in self.requests)

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

    def respond(self, status_code: int, body: bytes = b"{}", **headers: str) -> None:
        self.send_response(status_code)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def respond_json(self, content: object, status_code: int = 200, **headers: str) -> None:
        self.respond(status_code, json.dumps(content).encode(), Content_Type="application/json", **headers)

    def respond_not_found(self, error_code: str) -> None:
        self.respond(404, X_Error_Code=error_code)

    def read_body(self) -> bytes:
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
        self.server.requests.append(request)
        fault = next(
            (fault for fault in self.server.faults if fault.remaining and re.search(fault.pattern, request)), None
        )
        if fault:
            fault.remaining -= 1
            if fault.status_code:
                self.read_body()
                return self.respond(fault.status_code, **fault.headers)
            if fault.cut_after_bytes is None:
                self.wfile = io.BytesIO()
                self.route(request, self.read_body())
            else:
                self.rfile.read(min(fault.cut_after_bytes, int(self.headers.get("Content-Length") or 0)))
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True
            return None
        return self.route(request, self.read_body())

    def route(self, request: str, body: bytes) -> None:
        for pattern, method in ROUTES:
            if found := re.fullmatch(pattern, request):
                return method(self, body, *found.groups())
        return self.respond_not_found("EntryNotFound")

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = handle_any

    # ---- who asks, and for what -------------------------------------------------------------------------------------

    def has_valid_token(self) -> bool:
        """Whether a token was sent that is the user's; none may read, a wrong one may nothing."""
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def find_repository(self, kind: str | None, name: str, for_writing: bool = False) -> Repository | None:
        """The repository, or None after an answer that says why not."""
        found = self.server.repositories.get(f"{kind or 'models'}/{name}")
        if "Authorization" in self.headers and not self.has_valid_token() or for_writing and not self.has_valid_token():
            self.respond(401, X_Error_Message="Invalid credentials in Authorization header")
        elif found is None or found.private and not self.has_valid_token():
            self.respond_not_found("RepoNotFound")
        elif for_writing and not name.startswith(f"{USER}/"):
            self.respond(403, X_Error_Message="You don't have the rights to write here")
        else:
            return found
        return None

    def create_repository(self, body: bytes) -> None:
        asked = json.loads(body)
        name = f"{asked['organization'] or USER}/{asked['name']}"
        if not self.has_valid_token():
            return self.respond(401, X_Error_Message="Invalid credentials in Authorization header")
        if not name.startswith(f"{USER}/"):
            return self.respond(403, X_Error_Message="You don't have the rights to create a model under this namespace")
        if f"models/{name}" in self.server.repositories:
            return self.respond(409)
        made = self.server.repositories[f"models/{name}"] = Repository(asked.get("visibility") == "private")
        made.commit("main", {".gitattributes": b"*.safetensors filter=lfs\n"}, "initial commit")
        self.respond_json({"url": f"{self.server.url}/{name}"})

    def validate_front_matter(self, body: bytes) -> None:
        """The rules of the hub's front matter that matter to us."""
        front = re.match(r"---\n(.*?)\n---\n", json.loads(body)["content"], re.DOTALL)
        told, errors = yaml.safe_load(front[1]) if front else {}, []
        for result in [result for model in told.get("model-index", []) for result in model["results"]]:
            for key, needed in (("task", ("type",)), ("dataset", ("type", "name"))):
                errors += [f'"{key}.{part}" is required' for part in needed if not result.get(key, {}).get(part)]
            errors += [
                '"metrics" needs type and value'
                for metric in result["metrics"]
                if not {"type", "value"} <= metric.keys()
            ]
        if told.get("license") == "other" and "license_name" not in told:
            errors.append('"license_name" is required')
        self.respond_json({"errors": [{"message": error} for error in errors], "warnings": []}, 400 if errors else 200)

    # ---- reading ----------------------------------------------------------------------------------------------------

    def repo_metadata(self, body: bytes, kind: str, name: str, rest: str | None) -> None:
        found = self.find_repository(kind, name)
        if found is None:
            return None
        what, _, more = (rest or "revision/main").partition("/")
        if what == "refs":

            def listed(references: dict[str, str]) -> list[dict]:
                return [{"name": key, "ref": key, "targetCommit": oid} for key, oid in references.items()]

            return self.respond_json({"branches": listed(found.branches), "tags": listed(found.tags), "converts": []})
        commit = found.resolve_revision(more.partition("/")[0]) if what == "tree" else found.resolve_revision(more)
        if commit is None:
            return self.respond_not_found("RevisionNotFound")
        files = found.files(commit)
        if what == "tree":
            return self.respond_json([self.file_entry(file, content) for file, content in files.items()])
        if what == "paths-info":
            form = urllib.parse.parse_qs(body.decode())
            wanted = json.loads(body)["paths"] if body.startswith(b"{") else form.get("paths", [])
            return self.respond_json([self.file_entry(file, files[file]) for file in wanted if file in files])
        if what == "revision":
            return self.respond_json(
                {
                    "_id": "1",
                    "id": name,
                    "modelId": name,
                    "sha": commit,
                    "private": found.private,
                    "tags": [],
                    "downloads": 0,
                    "likes": 0,
                    "lastModified": "2026-01-01T00:00:00.000Z",
                    "createdAt": "2026-01-01T00:00:00.000Z",
                    "siblings": [{"rfilename": file} for file in files],
                }
            )
        return self.respond_not_found("EntryNotFound")

    def file_entry(self, name: str, content: bytes) -> dict:
        lfs = (
            {"lfs": {"oid": sha256(content), "size": len(content), "pointerSize": 130}}
            if name.endswith(LFS_SUFFIXES)
            else {}
        )
        return {"type": "file", "path": name, "size": len(content), "oid": git_oid(content), **lfs}

    def download(self, body: bytes, kind: str | None, name: str, revision: str, file: str) -> None:
        found = self.find_repository(kind, name)
        if found is None:
            return None
        commit = found.resolve_revision(revision)
        if commit is None:
            return self.respond_not_found("RevisionNotFound")
        content = found.files(commit).get(file)
        if content is None:
            return self.respond(404, X_Error_Code="EntryNotFound", X_Repo_Commit=commit)
        told = {"ETag": f'"{sha256(content)}"', "X_Repo_Commit": commit}
        bounds = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if not bounds:
            return self.respond(200, content, Accept_Ranges="bytes", **told)
        first, last = int(bounds[1]), min(int(bounds[2] or len(content)), len(content) - 1)
        return self.respond(
            206, content[first : last + 1], Content_Range=f"bytes {first}-{last}/{len(content)}", **told
        )

    # ---- writing ----------------------------------------------------------------------------------------------------

    def preupload(self, body: bytes, name: str, revision: str) -> None:
        if self.find_repository("models", name, for_writing=True):
            self.respond_json(
                {
                    "files": [
                        {
                            "path": file["path"],
                            "uploadMode": "lfs" if file["path"].endswith(LFS_SUFFIXES) else "regular",
                            "shouldIgnore": False,
                        }
                        for file in json.loads(body)["files"]
                    ]
                }
            )

    def lfs_batch(self, body: bytes, name: str) -> None:
        if self.find_repository("models", name, for_writing=True):
            self.respond_json(
                {
                    "transfer": "basic",
                    "objects": [
                        {
                            "oid": each["oid"],
                            "size": each["size"],
                            **(
                                {}
                                if each["oid"] in self.server.lfs_objects
                                else {"actions": {"upload": {"href": f"{self.server.url}/lfs/{each['oid']}"}}}
                            ),
                        }
                        for each in json.loads(body)["objects"]
                    ],
                }
            )

    def store_lfs_object(self, body: bytes, oid: str) -> None:
        if sha256(body) != oid:
            return self.respond(400)
        self.server.lfs_objects[oid] = body
        self.respond(200)

    def create_commit(self, body: bytes, name: str, branch: str) -> None:
        found = self.find_repository("models", name, for_writing=True)
        if found is None:
            return None
        head, *changes = map(json.loads, body.splitlines())
        if branch not in found.branches:
            return self.respond_not_found("RevisionNotFound")
        if head["value"].get("parentCommit", found.branches[branch]) != found.branches[branch]:
            return self.respond(412, X_Error_Message="A commit has happened since. Please refresh and try again.")
        files = dict(found.commits[found.branches[branch]])
        for change in changes:
            told = change["value"]
            if change["key"] == "deletedFile":
                del files[told["path"]]
            else:
                files[told["path"]] = (
                    self.server.lfs_objects[told["oid"]]
                    if change["key"] == "lfsFile"
                    else base64.b64decode(told["content"])
                )
        oid = found.commit(branch, files, head["value"]["summary"])
        self.respond_json({"success": True, "commitOid": oid, "commitUrl": f"{self.server.url}/{name}/commit/{oid}"})

    def create_reference(self, body: bytes, name: str, kind: str, revision: str) -> None:
        if found := self.find_repository("models", name, for_writing=True):
            if kind == "tag":
                found.tags[json.loads(body)["tag"]] = found.resolve_revision(revision)
            else:
                found.branches[revision] = found.branches["main"]
            self.respond(200)


ROUTES = (
    (r"POST /api/repos/create", Handler.create_repository),
    (r"POST /api/validate-yaml", Handler.validate_front_matter),
    (r"POST /api/models/([^/]+/[^/]+)/preupload/(.+)", Handler.preupload),
    (r"POST /([^/]+/[^/]+)\.git/info/lfs/objects/batch", Handler.lfs_batch),
    (r"PUT /lfs/(\w+)", Handler.store_lfs_object),
    (r"POST /api/models/([^/]+/[^/]+)/commit/(.+)", Handler.create_commit),
    (r"POST /api/models/([^/]+/[^/]+)/(tag|branch)/(.+)", Handler.create_reference),
    (r"\w+ /api/(models|datasets)/([^/]+/[^/]+)(?:/(.*))?", Handler.repo_metadata),
    (r"\w+ /(?:(datasets)/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)", Handler.download),
)
