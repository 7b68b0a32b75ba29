"""A model hub on the loopback interface, with enough of the hub's HTTP API for uploads and downloads.

It implements whoami, creation of repositories and branches, preupload, LFS batch and PUT, commit (ndjson, on a parent),
refs, commits, model info, tree and resolve. Files are stored in memory, and every commit is kept. A `Fault` makes a
request fail on purpose.
"""

import base64
import hashlib
import json
import re
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

import yaml


@dataclass
class Commit:
    """One commit.

    Attributes:
        files: content of every file of the branch after the commit, by path.
        touched: paths that the commit added, changed or deleted.
        title: first line of its message.
        number: its position in the branch.
    """

    files: dict[str, bytes]
    touched: list[str]
    title: str
    number: int

    @property
    def sha(self) -> str:
        """Id of the commit."""
        return hashlib.sha1(repr([self.number, sorted(self.files), self.title]).encode()).hexdigest()


@dataclass
class Repository:
    """One model repository.

    Attributes:
        private: whether it can be read with the token only.
        branches: commits of each branch, oldest first. The first commit of main is empty.
        tags: tag to the id of its commit.
    """

    private: bool = False
    branches: dict[str, list[Commit]] = field(default_factory=lambda: {"main": [Commit({}, [], "initial commit", 0)]})
    tags: dict[str, str] = field(default_factory=dict)

    @property
    def files(self) -> dict[str, bytes]:
        """Files of the main branch."""
        return self.branches["main"][-1].files

    @property
    def commits(self) -> list[list[str]]:
        """Paths that each push to the main branch touched."""
        return [commit.touched for commit in self.branches["main"][1:]]

    def find(self, revision: str) -> Commit | None:
        """The commit of a branch or an id; None if there is none."""
        if revision in self.branches:
            return self.branches[revision][-1]
        known = (commit for commits in self.branches.values() for commit in commits)
        return next((commit for commit in known if commit.sha == revision), None)


@dataclass
class Fault:
    """A failure of requests whose `METHOD path` matches a pattern.

    Attributes:
        pattern: regular expression.
        status: HTTP status of an error answer, with which nothing else is done; None for none.
        headers: headers of that answer.
        cut: where the connection breaks: `before` the request has any effect, or in the middle of the `answer`, after
            the request had its effect. None if it does not break.
        delay: seconds before anything else.
        first: called before the request is answered as usual.
        times: number of requests that fail.
        message: text of the error answer.
    """

    pattern: str
    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    cut: str | None = None
    delay: float = 0.0
    first: Callable[[], None] | None = None
    times: int = 1
    message: str = "injected"


class Hub:
    """The hub. `with Hub() as hub:` serves on `hub.url` until the block ends.

    Attributes:
        token: the only valid token.
        owners: accounts that the token may write to; the first is its own.
        repositories: repositories by `OWNER/NAME`.
        requests: `METHOD path` of every request.
        faults: failures; a request takes the first that matches and is not used up.
        lfs_suffixes: endings of files that are uploaded by LFS. Other files are uploaded inside the commit.
    """

    def __init__(self, token: str = "dummy", owners: tuple[str, ...] = ("alice",)):
        self.token = token
        self.owners = owners
        self.repositories: dict[str, Repository] = {}
        self.blobs: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.faults: list[Fault] = []
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

    def store(self, name: str, folder) -> None:
        """Commits the files of a folder to the main branch."""
        files = {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()}
        repository = self.repositories.setdefault(name, Repository())
        repository.branches["main"].append(Commit(files, sorted(files), "stored", len(repository.commits) + 1))

    def fault_of(self, request: str) -> Fault | None:
        """The fault of a request, which is counted as used; None if no fault matches."""
        for fault in self.faults:
            if fault.times > 0 and re.search(fault.pattern, request):
                fault.times -= 1
                return fault
        return None


def point_at(url: str, monkeypatch, tmp_path, token: str) -> None:
    """Makes this process talk to a hub. In a new process, the variable HF_ENDPOINT is enough."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_TOKEN", token)


class _Handler(BaseHTTPRequestHandler):
    """Answers one connection. Each method that a route names answers one kind of request."""

    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments) -> None:
        pass

    def do_GET(self) -> None:
        self._route()

    do_POST = do_PUT = do_HEAD = do_GET

    def _route(self) -> None:
        path = urlsplit(self.path).path
        request = f"{self.command} {unquote(path)}"
        self.hub.requests.append(request)
        self._fault = self.hub.fault_of(request)
        if self._fault is not None:
            threading.Event().wait(self._fault.delay)  # not time.sleep, which tests replace
            if self._fault.cut == "before":
                self._hang_up()
                return
            if self._fault.first is not None:
                self._fault.first()
        body = self._body()
        if self._fault is not None and self._fault.status is not None:
            error = json.dumps({"error": self._fault.message}).encode()
            fault = self._fault
            self._fault = None
            self._send(fault.status, error, {"Content-Type": "application/json", **fault.headers})
            return
        for method, pattern, action in _ROUTES:
            match = re.fullmatch(pattern, path)
            if match and self.command in method.split("|"):
                # On the real hub the address of an LFS upload is signed, so it needs no token.
                if self.command != "PUT" and not self._allowed(match):
                    return
                action(self, body, *(part and unquote(part) for part in match.groups()))  # a branch may contain `/`
                return
        self._json(404, {"error": f"no route {request}"})

    def _allowed(self, match: re.Match) -> bool:
        """Whether the token of the request suffices; if not, the request is answered with 401."""
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
        if self._fault is not None and self._fault.cut == "answer":
            self.wfile.write(body[: len(body) // 2])
            self._hang_up()
        elif self.command != "HEAD":
            self.wfile.write(body)

    def _hang_up(self) -> None:
        self.close_connection = True
        self.wfile.flush()
        self.connection.shutdown(socket.SHUT_RDWR)

    def _repository(self, name: str) -> Repository | None:
        """The repository; if there is none, the request is answered with 404."""
        if name not in self.hub.repositories:
            self._json(404, {"error": "Repository not found"})
        return self.hub.repositories.get(name)

    def _commit(self, name: str, revision: str) -> Commit | None:
        """The commit of a branch or an id; if there is none, the request is answered with 404."""
        repository = self._repository(name)
        commit = repository.find(revision) if repository else None
        if repository and commit is None:
            error = json.dumps({"error": f"Invalid rev id: {revision}"}).encode()
            self._send(404, error, {"X-Error-Code": "RevisionNotFound", "Content-Type": "application/json"})
        return commit

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

    def branch(self, body: bytes, name: str, branch: str) -> None:
        repository = self._repository(name)
        if repository is None:
            return
        if branch in repository.branches:
            self._json(409, {"error": "Reference already exists"})
            return
        repository.branches[branch] = list(repository.branches["main"])
        self._json(200, {})

    def preupload(self, body: bytes, name: str, revision: str) -> None:
        commit = self._commit(name, revision)
        if commit is None:
            return
        files = []
        for path in (file["path"] for file in json.loads(body)["files"]):
            mode = "lfs" if path.endswith(self.hub.lfs_suffixes) else "regular"
            known = {"oid": self._oid(path, commit.files[path])} if path in commit.files else {}
            files.append({"path": path, "uploadMode": mode, "shouldIgnore": False, **known})
        self._json(200, {"files": files})

    def _oid(self, path: str, content: bytes) -> str:
        if path.endswith(self.hub.lfs_suffixes):
            return hashlib.sha256(content).hexdigest()
        return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()

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

    def commit(self, body: bytes, name: str, revision: str) -> None:
        before = self._commit(name, revision)
        if before is None:
            return
        header, *entries = (json.loads(line) for line in filter(None, body.splitlines()))
        if header["value"].get("parentCommit", before.sha) != before.sha:
            self._json(412, {"error": "A commit has happened since. Please refresh and try again."})
            return
        files = dict(before.files)
        touched = []
        for entry in entries:
            value = entry["value"]
            if entry["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                files[value["path"]] = self.hub.blobs[value["oid"]]
            elif entry["key"] == "deletedFile":
                del files[value["path"]]
            touched.append(value["path"])
        commits = self.hub.repositories[name].branches[revision]
        commits.append(Commit(files, sorted(touched), header["value"]["summary"], len(commits)))
        url = f"{self.hub.url}/{name}/commit/{commits[-1].sha}"
        self._json(200, {"success": True, "commitOid": commits[-1].sha, "commitUrl": url})

    # --- downloads

    def refs(self, body: bytes, name: str) -> None:
        repository = self._repository(name)
        if repository is not None:
            branches = [
                {"name": branch, "ref": f"refs/heads/{branch}", "targetCommit": commits[-1].sha}
                for branch, commits in repository.branches.items()
            ]
            tags = [
                {"name": tag, "ref": f"refs/tags/{tag}", "targetCommit": sha} for tag, sha in repository.tags.items()
            ]
            self._json(200, {"branches": branches, "tags": tags, "converts": []})

    def commits(self, body: bytes, name: str, revision: str) -> None:
        if self._commit(name, revision) is not None:
            about = {"authors": [], "message": ""}
            self._json(
                200,
                [
                    {"id": commit.sha, "title": commit.title, "date": f"2026-01-01T00:00:{number:02}.000Z", **about}
                    for number, commit in enumerate(self.hub.repositories[name].branches[revision])
                ][::-1],
            )

    def info(self, body: bytes, name: str, revision: str | None) -> None:
        commit = self._commit(name, revision or "main")
        if commit is not None:
            siblings = [{"rfilename": path} for path in commit.files]
            about = {"id": name, "modelId": name, "sha": commit.sha, "private": self.hub.repositories[name].private}
            card = re.match(r"---\n(.*?)---\n", commit.files.get("README.md", b"").decode(), re.DOTALL)
            metadata = {"cardData": yaml.safe_load(card.group(1))} if card else {}
            self._json(200, {**about, **metadata, "siblings": siblings, "tags": []})

    def tree(self, body: bytes, name: str, revision: str, folder: str | None) -> None:
        commit = self._commit(name, revision)
        if commit is None:
            return
        files = {path: content for path, content in commit.files.items() if path.startswith(folder or "")}
        if folder and not files:
            self._send(404, b"", {"X-Error-Code": "EntryNotFound"})
            return
        self._json(200, [self._entry(path, content) for path, content in files.items()])

    def _entry(self, path: str, content: bytes) -> dict:
        entry = {"type": "file", "path": path, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
        if path.endswith(self.hub.lfs_suffixes):
            oid = hashlib.sha256(content).hexdigest()
            entry["lfs"] = {"oid": oid, "size": len(content), "pointerSize": 130}
        return entry

    def resolve(self, body: bytes, name: str, revision: str, path: str) -> None:
        commit = self._commit(name, revision)
        if commit is None:
            return
        if path not in commit.files:
            self._send(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit.sha})
            return
        content = commit.files[path]
        start = int(self.headers.get("Range", "bytes=0-")[len("bytes=") :].split("-")[0])
        etag = f'"{self._oid(path, content)}"'
        headers = {"ETag": etag, "X-Repo-Commit": commit.sha, "Accept-Ranges": "bytes"}
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        self._send(206 if start else 200, content[start:], headers)


_NAME = r"([^/]+/[^/]+)"
_ROUTES = [
    ("GET", r"/api/whoami-v2", _Handler.whoami),
    ("POST", r"/api/validate-yaml", _Handler.validate_yaml),
    ("POST", r"/api/repos/create", _Handler.create),
    ("POST", rf"/api/models/{_NAME}/branch/(.+)", _Handler.branch),
    ("POST", rf"/api/models/{_NAME}/preupload/(.+)", _Handler.preupload),
    ("POST", rf"/{_NAME}\.git/info/lfs/objects/batch", _Handler.lfs_batch),
    ("PUT", r"/lfs/([0-9a-f]+)", _Handler.lfs_put),
    ("POST", rf"/api/models/{_NAME}/commit/(.+)", _Handler.commit),
    ("GET", rf"/api/models/{_NAME}/refs", _Handler.refs),
    ("GET", rf"/api/models/{_NAME}/commits/(.+)", _Handler.commits),
    ("GET", rf"/api/models/{_NAME}(?:/revision/(.+))?", _Handler.info),
    ("GET", rf"/api/models/{_NAME}/tree/([^/]+)(?:/(.+))?", _Handler.tree),
    ("GET|HEAD", rf"/{_NAME}/resolve/([^/]+)/(.+)", _Handler.resolve),
]
