"""Downloads against a server on this machine: resumed, locked, limited, checked; https only."""

from __future__ import annotations

import hashlib
import http.server
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from semseg_automl.core.errors import WeightsError
from semseg_automl.models import weights_fetch
from semseg_automl.models.weights_registry import WeightSource

DATA = bytes(range(256)) * 4096  # 1 MiB


class Handler(http.server.BaseHTTPRequestHandler):
    """Sends DATA as told: with or without ranges, whole or cut off, right or wrong."""

    asked: ClassVar[list[str]] = []
    ranges, cut, wrong, redirect = True, 0, False, ""

    def do_GET(self) -> None:
        cls = type(self)
        start = int((self.headers["Range"] or "bytes=0-").removeprefix("bytes=").rstrip("-"))
        cls.asked.append(self.headers["Range"] or "")
        body = DATA[::-1] if cls.wrong else DATA
        if cls.redirect:
            self.send_response(302)
            self.send_header("Location", cls.redirect)
            self.end_headers()
            return
        if start and cls.ranges:
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
            body = body[start:]
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: cls.cut or None])

    def log_message(self, format: str, *args: Any) -> None:
        """Silent."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Handler]]:
    kind = type("OfThisTest", (Handler,), {"asked": []})
    running = http.server.ThreadingHTTPServer(("127.0.0.1", 0), kind)
    threading.Thread(target=running.serve_forever, daemon=True).start()
    _lead_to(running.server_port, monkeypatch)
    yield kind
    running.shutdown()
    running.server_close()


def _lead_to(port: int, monkeypatch: Any) -> None:
    """Every https request goes to this machine's server; all else of the opener stays as it is."""

    def opener(*handlers: Any) -> Any:
        made = urllib.request.OpenerDirector()
        for handler in (urllib.request.HTTPHandler(), urllib.request.HTTPErrorProcessor()):
            made.add_handler(handler)
        made.add_handler(urllib.request.HTTPDefaultErrorHandler())
        for handler in handlers:
            made.add_handler(handler)
        return made

    real = weights_fetch.urllib.request.Request

    def request(url: str, **options: Any) -> Any:
        assert url.startswith("https://example.invalid/")
        return real(f"http://127.0.0.1:{port}/x", **options)

    monkeypatch.setattr(weights_fetch, "_check_resolvable", lambda url: None)
    monkeypatch.setattr(weights_fetch.urllib.request, "build_opener", opener)
    monkeypatch.setattr(weights_fetch.urllib.request, "Request", request)


def source(size: int = len(DATA), data: bytes = DATA) -> WeightSource:
    return WeightSource(
        name="x",
        kind="url",
        location="https://example.invalid/x.pth",
        file_sha256=hashlib.sha256(data).hexdigest(),
        file_name="x.pth",
        size=size,
        stems=("x",),
    )


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir() if not p.name.endswith(".lock"))


def test_a_file_appears_when_it_is_whole(server: type[Handler], tmp_path: Path) -> None:
    assert weights_fetch.fetch(source(), tmp_path / "new").read_bytes() == DATA
    assert names(tmp_path / "new") == ["x.pth"] and server.asked == [""]


@pytest.mark.parametrize("ranges", [True, False], ids=["ranges", "whole files only"])
def test_a_download_that_was_cut_off_goes_on(server: type[Handler], tmp_path: Path, ranges: bool) -> None:
    server.cut, server.ranges = 300_000, ranges
    with pytest.raises(WeightsError, match="cut short after 300000 of 1048576 bytes, which are kept"):
        weights_fetch.fetch(source(), tmp_path)
    assert names(tmp_path) == ["x.pth.part"]
    server.cut = 0
    assert weights_fetch.fetch(source(), tmp_path).read_bytes() == DATA
    assert server.asked == ["", "bytes=300000-"] and names(tmp_path) == ["x.pth"]


def test_a_wrong_hash_is_deleted_and_told(server: type[Handler], tmp_path: Path) -> None:
    server.wrong = True
    with pytest.raises(WeightsError, match=r"sha256 is [0-9a-f]{64}, must be .* The file was deleted"):
        weights_fetch.fetch(source(), tmp_path)
    assert names(tmp_path) == []


def test_a_part_of_another_file_does_not_survive(server: type[Handler], tmp_path: Path) -> None:
    """The hash is over the whole: a forged part costs one attempt, and the next one starts anew."""
    (tmp_path / "x.pth.part").write_bytes(b"forged" * 1000)
    with pytest.raises(WeightsError, match="sha256 is"):
        weights_fetch.fetch(source(), tmp_path)
    assert weights_fetch.fetch(source(), tmp_path).read_bytes() == DATA
    assert server.asked == ["bytes=6000-", ""]


def test_a_size_that_is_announced_too_large_is_not_fetched(server: type[Handler], tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="1048576 bytes announced, 1000 expected"):
        weights_fetch.fetch(source(size=1000), tmp_path)
    assert names(tmp_path) == []


def test_a_stream_without_end_is_given_up(server: type[Handler], tmp_path: Path, monkeypatch: Any) -> None:
    class Endless:
        headers: ClassVar[dict[str, str]] = {}
        status = 200

        def __enter__(self) -> Endless:
            return self

        def __exit__(self, *args: Any) -> None:
            pass

        def read(self, count: int) -> bytes:
            return b"x" * count

    monkeypatch.setattr(weights_fetch, "_open", lambda url, start: Endless())
    with pytest.raises(WeightsError, match="longer than 2000000 bytes"):
        weights_fetch.fetch(source(size=1_000_000), tmp_path)
    assert names(tmp_path) == []


def test_a_redirect_away_from_https_is_refused(server: type[Handler], tmp_path: Path) -> None:
    server.redirect = "http://127.0.0.1:9/x"
    with pytest.raises(WeightsError, match="https only"):
        weights_fetch.fetch(source(), tmp_path)


def test_a_second_fetch_waits_and_takes_what_the_first_fetched(server: type[Handler], tmp_path: Path) -> None:
    with weights_fetch._one_at_a_time(tmp_path / ".x.pth.lock") as waited:
        assert not waited
        answers: list[bool] = []
        second = threading.Thread(
            target=lambda: answers.append(weights_fetch.fetch(source(), tmp_path).read_bytes() == DATA)
        )
        second.start()
        second.join(0.3)
        assert second.is_alive() and server.asked == []
        (tmp_path / "x.pth").write_bytes(DATA)
    second.join(10)
    assert answers == [True] and server.asked == []
