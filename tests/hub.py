"""A model hub on localhost with the endpoints that `huggingface_hub` uses to download and upload.

with HubServer({"models/owner/name": folder}) as hub:    # folders to serve
    hub.url, hub.environment
    hub.requests                                         # all requests, such as "POST /api/repos/create"
    hub.repositories["models/me/new"]                    # what was uploaded
    hub.fail_requests("PUT /lfs/", 500, times=3)         # answer the next matching requests with an error (or a lie),
    hub.cut_connection("PUT /lfs/", after=1000)          # or break the connection after some bytes,
    hub.lose_response("POST .*/commit/")                 # or handle them, but lose the response
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
import socket
import threading
import time
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import yaml

TOKEN, USER = "hf_" + "t" * 30, "me"
LFS_SUFFIXES = (".safetensors", ".png")
"""Files uploaded separately from the commit."""
BAD_TOKEN = "Invalid credentials in Authorization header"


def git_oid(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@dataclass
class Repository:
    """A repository; each commit maps all file names to their content, or to the path it is read from."""

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
        """Return the commit of a branch, tag or commit id."""
        oid = self.branches.get(revision) or self.tags.get(revision) or revision
        return oid if oid in self.commits else None

    def files(self, revision: str = "main") -> dict[str, bytes]:
        return {
            name: content if isinstance(content, bytes) else content.read_bytes()
            for name, content in self.commits[self.resolve_revision(revision)].items()
        }


@dataclass
class Fault:
    """What happens to the next requests that match `pattern`."""

    pattern: str
    remaining: int
    status_code: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b"{}"
    seconds_per_byte: float = 0
    """Pause after each byte of the body."""
    cut_after_bytes: int | None = None
    """Bytes read before the connection breaks; None: all, and the request is handled."""


class SlowFile:
    """A file that pauses after each byte."""

    def __init__(self, file, seconds_per_byte: float):
        self.file, self.seconds_per_byte = file, seconds_per_byte

    def write(self, content: bytes) -> None:
        for byte in content:
            self.file.write(bytes([byte]))
            time.sleep(self.seconds_per_byte)

    def __getattr__(self, name: str):
        return getattr(self.file, name)


class HubServer(ThreadingHTTPServer):
    """The hub. The holder of the token is the user `me`, who may write to the repositories of `me`."""

    daemon_threads = True

    def __init__(self, folders: Mapping[str, Path] = {}):
        super().__init__(("127.0.0.1", 0), Handler)
        self.repositories, self.lfs_objects, self.requests, self.faults = {}, {}, [], []
        for name, folder in folders.items():
            self.repositories[name] = Repository()
            files = {str(path.relative_to(folder)): path for path in sorted(folder.rglob("*")) if path.is_file()}
            self.repositories[name].commit("main", files, "initial commit")

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    @property
    def environment(self) -> dict[str, str]:
        """Environment variables for a process that uses this hub."""
        return {"HF_ENDPOINT": self.url, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_TELEMETRY": "1", "HF_TOKEN": TOKEN}

    def fail_requests(
        self,
        pattern: str,
        status_code: int,
        times: int = 1,
        body: bytes = b"{}",
        seconds_per_byte: float = 0,
        **headers,
    ) -> None:
        self.faults.append(Fault(pattern, times, status_code, headers, body, seconds_per_byte))

    def cut_connection(self, pattern: str, after: int, times: int = 1) -> None:
        self.faults.append(Fault(pattern, times, cut_after_bytes=after))

    def lose_response(self, pattern: str, times: int = 1) -> None:
        self.faults.append(Fault(pattern, times))

    def count_requests(self, pattern: str) -> int:
        """Count the requests that match `pattern`."""
        return sum(bool(re.search(pattern, request)) for request in self.requests)

    def __enter__(self):
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.shutdown()
        self.server_close()

    def handle_error(self, request, client_address) -> None:
        """Ignore clients that disconnect."""


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
        faults = (fault for fault in self.server.faults if fault.remaining and re.search(fault.pattern, request))
        fault = next(faults, None)
        if fault is None:
            return self.route(request, self.read_body())
        fault.remaining -= 1
        if fault.status_code:
            self.read_body()
            if fault.seconds_per_byte:
                self.wfile = SlowFile(self.wfile, fault.seconds_per_byte)
            return self.respond(fault.status_code, fault.body, **fault.headers)
        if fault.cut_after_bytes is None:
            self.wfile = io.BytesIO()
            self.route(request, self.read_body())
        else:
            self.rfile.read(min(fault.cut_after_bytes, int(self.headers.get("Content-Length") or 0)))
        self.connection.shutdown(socket.SHUT_RDWR)
        self.close_connection = True
        return None

    def route(self, request: str, body: bytes) -> None:
        for pattern, method in ROUTES:
            if match := re.fullmatch(pattern, request):
                return method(self, body, *match.groups())
        return self.respond_not_found("EntryNotFound")

    # ---- access -----------------------------------------------------------------------------------------------------

    def has_valid_token(self) -> bool:
        """Return whether the user's token was sent; without one clients may read, with a wrong one not even that."""
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def find_repository(self, kind: str | None, name: str, for_writing: bool = False) -> Repository | None:
        """Return the repository; None after responding with an error."""
        repository = self.server.repositories.get(f"{kind or 'models'}/{name}")
        if ("Authorization" in self.headers or for_writing) and not self.has_valid_token():
            self.respond(401, X_Error_Message=BAD_TOKEN)
        elif repository is None or repository.private and not self.has_valid_token():
            self.respond_not_found("RepoNotFound")
        elif for_writing and not name.startswith(f"{USER}/"):
            self.respond(403, X_Error_Message="You don't have the rights to write here")
        else:
            return repository
        return None

    def create_repository(self, body: bytes) -> None:
        options = json.loads(body)
        name = f"{options['organization'] or USER}/{options['name']}"
        if not self.has_valid_token():
            return self.respond(401, X_Error_Message=BAD_TOKEN)
        if not name.startswith(f"{USER}/"):
            return self.respond(403, X_Error_Message="You don't have the rights to create a model under this namespace")
        if f"models/{name}" in self.server.repositories:
            return self.respond(409)
        repository = self.server.repositories[f"models/{name}"] = Repository(options.get("visibility") == "private")
        repository.commit("main", {".gitattributes": b"*.safetensors filter=lfs\n"}, "initial commit")
        return self.respond_json({"url": f"{self.server.url}/{name}"})

    def validate_front_matter(self, body: bytes) -> None:
        """Check the rules of the hub's front matter that matter here."""
        match = re.match(r"---\n(.*?)\n---\n", json.loads(body)["content"], re.DOTALL)
        metadata, errors = yaml.safe_load(match[1]) if match else {}, []
        for result in [result for model in metadata.get("model-index", []) for result in model["results"]]:
            for key, parts in (("task", ("type",)), ("dataset", ("type", "name"))):
                errors += [f'"{key}.{part}" is required' for part in parts if not result.get(key, {}).get(part)]
            incomplete = [metric for metric in result["metrics"] if not {"type", "value"} <= metric.keys()]
            errors += ['"metrics" needs type and value'] * len(incomplete)
        if metadata.get("license") == "other" and "license_name" not in metadata:
            errors.append('"license_name" is required')
        self.respond_json({"errors": [{"message": error} for error in errors], "warnings": []}, 400 if errors else 200)

    # ---- reading ----------------------------------------------------------------------------------------------------

    def repo_metadata(self, body: bytes, kind: str, name: str, rest: str | None) -> None:
        repository = self.find_repository(kind, name)
        if repository is None:
            return None
        endpoint, _, revision = (rest or "revision/main").partition("/")
        if endpoint == "refs":
            references = {
                key: [{"name": ref, "ref": ref, "targetCommit": oid} for ref, oid in getattr(repository, key).items()]
                for key in ("branches", "tags")
            }
            return self.respond_json({**references, "converts": []})
        commit = repository.resolve_revision(revision.partition("/")[0] if endpoint == "tree" else revision)
        if commit is None:
            return self.respond_not_found("RevisionNotFound")
        files = repository.files(commit)
        if endpoint == "tree":
            return self.respond_json([self.file_entry(file, content) for file, content in files.items()])
        if endpoint == "paths-info":
            form = urllib.parse.parse_qs(body.decode())
            paths = json.loads(body)["paths"] if body.startswith(b"{") else form.get("paths", [])
            return self.respond_json([self.file_entry(file, files[file]) for file in paths if file in files])
        if endpoint == "revision":
            info = {"_id": "1", "id": name, "modelId": name, "sha": commit, "private": repository.private}
            info |= {"tags": [], "downloads": 0, "likes": 0, "siblings": [{"rfilename": file} for file in files]}
            return self.respond_json(info | dict.fromkeys(("lastModified", "createdAt"), "2026-01-01T00:00:00.000Z"))
        return self.respond_not_found("EntryNotFound")

    def file_entry(self, name: str, content: bytes) -> dict:
        entry = {"type": "file", "path": name, "size": len(content), "oid": git_oid(content)}
        if name.endswith(LFS_SUFFIXES):
            entry["lfs"] = {"oid": sha256(content), "size": len(content), "pointerSize": 130}
        return entry

    def download(self, body: bytes, kind: str | None, name: str, revision: str, file: str) -> None:
        repository = self.find_repository(kind, name)
        if repository is None:
            return None
        commit = repository.resolve_revision(revision)
        if commit is None:
            return self.respond_not_found("RevisionNotFound")
        content = repository.files(commit).get(file)
        if content is None:
            return self.respond(404, X_Error_Code="EntryNotFound", X_Repo_Commit=commit)
        headers = {"ETag": f'"{sha256(content)}"', "X_Repo_Commit": commit}
        bounds = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if not bounds:
            return self.respond(200, content, Accept_Ranges="bytes", **headers)
        first, last = int(bounds[1]), min(int(bounds[2] or len(content)), len(content) - 1)
        headers["Content_Range"] = f"bytes {first}-{last}/{len(content)}"
        return self.respond(206, content[first : last + 1], **headers)

    # ---- writing ----------------------------------------------------------------------------------------------------

    def preupload(self, body: bytes, name: str, revision: str) -> None:
        if self.find_repository("models", name, for_writing=True):
            modes = {
                file["path"]: "lfs" if file["path"].endswith(LFS_SUFFIXES) else "regular"
                for file in json.loads(body)["files"]
            }
            files = [{"path": path, "uploadMode": mode, "shouldIgnore": False} for path, mode in modes.items()]
            self.respond_json({"files": files})

    def lfs_batch(self, body: bytes, name: str) -> None:
        if self.find_repository("models", name, for_writing=True):
            objects = []
            for item in json.loads(body)["objects"]:
                entry = {"oid": item["oid"], "size": item["size"]}
                if item["oid"] not in self.server.lfs_objects:
                    entry["actions"] = {"upload": {"href": f"{self.server.url}/lfs/{item['oid']}"}}
                objects.append(entry)
            self.respond_json({"transfer": "basic", "objects": objects})

    def store_lfs_object(self, body: bytes, oid: str) -> None:
        if sha256(body) != oid:
            return self.respond(400)
        self.server.lfs_objects[oid] = body
        return self.respond(200)

    def create_commit(self, body: bytes, name: str, branch: str) -> None:
        repository = self.find_repository("models", name, for_writing=True)
        if repository is None:
            return None
        header, *changes = map(json.loads, body.splitlines())
        if branch not in repository.branches:
            return self.respond_not_found("RevisionNotFound")
        head = repository.branches[branch]
        if header["value"].get("parentCommit", head) != head:
            return self.respond(412, X_Error_Message="A commit has happened since. Please refresh and try again.")
        files = dict(repository.commits[head])
        for change in changes:
            value = change["value"]
            if change["key"] == "deletedFile":
                del files[value["path"]]
            elif change["key"] == "lfsFile":
                files[value["path"]] = self.server.lfs_objects[value["oid"]]
            else:
                files[value["path"]] = base64.b64decode(value["content"])
        oid = repository.commit(branch, files, header["value"]["summary"])
        url = f"{self.server.url}/{name}/commit/{oid}"
        return self.respond_json({"success": True, "commitOid": oid, "commitUrl": url})

    def create_reference(self, body: bytes, name: str, kind: str, revision: str) -> None:
        if repository := self.find_repository("models", name, for_writing=True):
            if kind == "tag":
                repository.tags[json.loads(body)["tag"]] = repository.resolve_revision(revision)
            else:
                repository.branches[revision] = repository.branches["main"]
            self.respond(200)


for _method in ("GET", "HEAD", "POST", "PUT", "DELETE"):
    setattr(Handler, f"do_{_method}", Handler.handle_any)

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
