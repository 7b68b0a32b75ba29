"""A model hub on the loopback interface: enough of the hub's HTTP API to push to and download from.

Speaks whoami, repository creation, preupload, LFS batch and PUT, commit (ndjson), model info, tree, resolve.
Files are stored in memory; every commit is kept.
"""

import base64
import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit


@dataclass
class Repository:
    """One model repository: its files now, and the paths of every commit."""

    private: bool = False
    files: dict[str, bytes] = field(default_factory=dict)
    commits: list[list[str]] = field(default_factory=list)

    @property
    def sha(self) -> str:
        return hashlib.sha1(repr([len(self.commits), sorted(self.files)]).encode()).hexdigest()


class Hub:
    """`with Hub() as hub:` serves on `hub.url` until the block ends.

    Attributes:
        token: the only token it accepts.
        owners: accounts that the token may write to.
        repositories: by `owner/name`.
        requests: every `METHOD path` it has answered.
        lfs_suffixes: names with these endings are uploaded by LFS, the rest inside the commit.
    """

    def __init__(self, token: str = "dummy", owners: tuple[str, ...] = ("alice",)):
        self.token = token
        self.owners = owners
        self.repositories: dict[str, Repository] = {}
        self.blobs: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.lfs_suffixes = (".safetensors",)

    def __enter__(self) -> "Hub":
        hub = self
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        return self

    def __exit__(self, *exception) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments) -> None:
        pass

    def do_GET(self) -> None:
        self._route()

    do_POST = do_PUT = do_HEAD = do_GET

    def _route(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append(f"{self.command} {path}")
        body = self._body()
        for method, pattern, action in _ROUTES:
            match = re.fullmatch(pattern, path)
            if match and self.command in method.split("|"):
                # An upload address is signed on the real hub, so it takes no token.
                if self.command != "PUT" and not self._allowed(match):
                    return
                action(self, body, *match.groups())
                return
        self._json(404, {"error": f"no route {self.command} {path}"})

    def _allowed(self, match: re.Match) -> bool:
        writes = self.command == "POST" or "whoami" in self.path
        repository = self.hub.repositories.get(match.group(1)) if match.groups() else None
        needs_token = writes or (repository is not None and repository.private)
        if needs_token and self.headers.get("Authorization") != f"Bearer {self.hub.token}":
            self._json(401, {"error": "Invalid username or password."})
            return False
        return True

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        chunks = []
        while size := int(self.rfile.readline(), 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def _json(self, status: int, value) -> None:
        headers = {"Content-Type": "application/json"}
        if status == 404:
            headers["X-Error-Code"] = "RepoNotFound"
        self._send(status, json.dumps(value).encode(), headers)

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _repository(self, name: str) -> Repository | None:
        if name not in self.hub.repositories:
            self._json(404, {"error": "Repository not found"})
        return self.hub.repositories.get(name)

    # --- uploads

    def whoami(self, body: bytes) -> None:
        self._json(200, {"type": "user", "name": self.hub.owners[0], "orgs": [], "auth": {"type": "access_token"}})

    def validate_yaml(self, body: bytes) -> None:
        self._json(200, {"errors": [], "warnings": []})

    def create(self, body: bytes) -> None:
        asked = json.loads(body)
        owner = asked.get("organization") or self.hub.owners[0]
        name = f"{owner}/{asked['name']}"
        if owner not in self.hub.owners:
            self._json(403, {"error": f"You don't have the rights to create a model under the namespace {owner}"})
            return
        exists = name in self.hub.repositories
        private = asked.get("visibility") == "private" or bool(asked.get("private"))
        self.hub.repositories.setdefault(name, Repository(private=private))
        self._json(409 if exists else 200, {"url": f"{self.hub.url}/{name}", "name": name})

    def preupload(self, body: bytes, name: str) -> None:
        if self._repository(name) is None:
            return
        paths = [file["path"] for file in json.loads(body)["files"]]
        modes = {path: "lfs" if path.endswith(self.hub.lfs_suffixes) else "regular" for path in paths}
        files = [{"path": path, "uploadMode": modes[path], "shouldIgnore": False} for path in paths]
        self._json(200, {"files": files})

    def lfs_batch(self, body: bytes, name: str) -> None:
        objects = []
        for blob in json.loads(body)["objects"]:
            upload = {"href": f"{self.hub.url}/lfs/{blob['oid']}", "header": {}}
            actions = {} if blob["oid"] in self.hub.blobs else {"actions": {"upload": upload}}
            objects.append({"oid": blob["oid"], "size": blob["size"], **actions})
        self._json(200, {"transfer": "basic", "objects": objects})

    def lfs_put(self, body: bytes, oid: str) -> None:
        if hashlib.sha256(body).hexdigest() != oid:
            self._json(400, {"error": "the bytes do not have this sha256"})
            return
        self.hub.blobs[oid] = body
        self._json(200, {})

    def commit(self, body: bytes, name: str) -> None:
        repository = self._repository(name)
        if repository is None:
            return
        changes = {}
        for line in filter(None, body.splitlines()):
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "file":
                changes[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                changes[value["path"]] = self.hub.blobs[value["oid"]]
        repository.files.update(changes)
        repository.commits.append(sorted(changes))
        url = f"{self.hub.url}/{name}/commit/{repository.sha}"
        self._json(200, {"success": True, "commitOid": repository.sha, "commitUrl": url})

    # --- downloads

    def info(self, body: bytes, name: str) -> None:
        repository = self._repository(name)
        if repository is not None:
            siblings = [{"rfilename": path} for path in repository.files]
            about = {"id": name, "modelId": name, "sha": repository.sha, "private": repository.private}
            self._json(200, {**about, "siblings": siblings, "tags": []})

    def tree(self, body: bytes, name: str) -> None:
        repository = self._repository(name)
        if repository is not None:
            self._json(200, [self._entry(path, content) for path, content in repository.files.items()])

    def _entry(self, path: str, content: bytes) -> dict:
        entry = {"type": "file", "path": path, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
        if path.endswith(self.hub.lfs_suffixes):
            oid = hashlib.sha256(content).hexdigest()
            entry["lfs"] = {"oid": oid, "size": len(content), "pointerSize": 130}
        return entry

    def resolve(self, body: bytes, name: str, revision: str, path: str) -> None:
        repository = self._repository(name)
        if repository is None:
            return
        if path not in repository.files:
            self._send(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": repository.sha})
            return
        content = repository.files[path]
        algorithm = hashlib.sha256 if path.endswith(self.hub.lfs_suffixes) else hashlib.sha1
        etag = f'"{algorithm(content).hexdigest()}"'
        self._send(200, content, {"ETag": etag, "X-Repo-Commit": repository.sha, "Accept-Ranges": "none"})


_NAME = r"([^/]+/[^/]+)"
_ROUTES = [
    ("GET", r"/api/whoami-v2", _Handler.whoami),
    ("POST", r"/api/validate-yaml", _Handler.validate_yaml),
    ("POST", r"/api/repos/create", _Handler.create),
    ("POST", rf"/api/models/{_NAME}/preupload/[^/]+", _Handler.preupload),
    ("POST", rf"/{_NAME}\.git/info/lfs/objects/batch", _Handler.lfs_batch),
    ("PUT", r"/lfs/([0-9a-f]+)", _Handler.lfs_put),
    ("POST", rf"/api/models/{_NAME}/commit/[^/]+", _Handler.commit),
    ("GET", rf"/api/models/{_NAME}(?:/revision/[^/]+)?", _Handler.info),
    ("GET", rf"/api/models/{_NAME}/tree/[^/]+", _Handler.tree),
    ("GET|HEAD", rf"/{_NAME}/resolve/([^/]+)/(.+)", _Handler.resolve),
]
