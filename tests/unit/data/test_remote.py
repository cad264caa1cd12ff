"""Pictures and masks at URLs: in memory, in a folder, from a web server; and what goes wrong with them."""

from __future__ import annotations

import builtins
import functools
import http.server
import io
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from semseg_automl.core.errors import DataError
from semseg_automl.data import remote
from semseg_automl.data.frame import check_table, list_pictures
from semseg_automl.data.images import image_size, read_image
from semseg_automl.data.masks import read_raw_mask
from semseg_automl.data.windows import PictureWindows

fsspec = pytest.importorskip("fsspec", reason="the extra [remote] is not installed")
RNG = np.random.default_rng(0)
PICTURE = RNG.integers(0, 256, (20, 30, 3), np.uint8)
MASK = RNG.integers(0, 3, (20, 30), np.uint8)


def encoded(array: np.ndarray, kind: str = "PNG") -> bytes:
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, kind)
    return stream.getvalue()


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    remote.forget()
    yield
    remote.forget()


class Quiet(http.server.SimpleHTTPRequestHandler):
    asked: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        Quiet.asked.append(self.path)
        super().do_GET()

    def log_message(self, *_: Any) -> None:
        return None


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder and its address on a local web server."""
    handler = functools.partial(Quiet, directory=str(tmp_path))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    Quiet.asked.clear()
    yield tmp_path, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def memory() -> Iterator[Any]:
    system = fsspec.filesystem("memory")
    yield system
    system.store.clear()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("s3://bucket/a.png", True),
        ("gs://bucket/a.png", True),
        ("HTTPS://host/a.png", True),
        ("memory://a.png", True),
        ("simplecache::s3://bucket/a.png", True),
        ("file:///tmp/a.png", False),
        ("/tmp/a.png", False),
        ("a.png", False),
        ("C:/a.png", False),
        ("C://a.png", False),
        ("odd/name://a.png", False),
        (Path("s3:/a.png"), False),
        (np.zeros((2, 2)), False),
    ],
)
def test_what_is_a_url(text: Any, expected: bool) -> None:
    assert remote.is_remote(text) is expected


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP", "WEBP"])
def test_pictures_in_memory_are_those_of_files(kind: str, memory: Any) -> None:
    options = {"lossless": True} if kind == "WEBP" else {}
    stream = io.BytesIO()
    Image.fromarray(PICTURE).save(stream, kind, **options)
    url = f"memory://folder/x.{kind.lower()}"
    memory.pipe(url, stream.getvalue())
    assert image_size(url) == (20, 30)
    np.testing.assert_array_equal(read_image(url), PICTURE)
    window = PictureWindows(url).window((20, 30), (3, 9), (4, 25))
    np.testing.assert_array_equal(window, PICTURE[3:9, 4:25])


def test_tiffs_that_pillow_would_change(tmp_path: Path, memory: Any) -> None:
    tifffile = pytest.importorskip("tifffile", reason="the extra [tiff] is not installed")
    deep = RNG.integers(0, 65536, (20, 30, 3)).astype(np.uint16)
    tifffile.imwrite(tmp_path / "x.tif", deep, photometric="rgb")
    memory.pipe("memory://x.tif", (tmp_path / "x.tif").read_bytes())
    np.testing.assert_array_equal(read_image("memory://x.tif"), deep)


def test_a_table_of_urls_of_every_kind(served: tuple[Path, str], memory: Any) -> None:
    folder, address = served
    (folder / "x.png").write_bytes(encoded(PICTURE))
    (folder / "m.png").write_bytes(encoded(MASK))
    memory.pipe("memory://x.png", encoded(PICTURE))
    memory.pipe("memory://m.png", encoded(MASK))
    local = (folder / "x.png").as_uri(), (folder / "m.png").as_uri()
    table = pd.DataFrame(
        [("memory://x.png", "memory://m.png"), (f"{address}/x.png", f"{address}/m.png"), local],
        columns=["image", "label"],
    )
    samples = check_table(table, need_label=True)
    assert samples.sizes == ((20, 30),) * 3
    assert samples.images[:2] == ("memory://x.png", f"{address}/x.png")  # as they were given
    for image, mask in zip(samples.images, samples.masks or (), strict=True):
        np.testing.assert_array_equal(read_image(image), PICTURE)
        np.testing.assert_array_equal(read_raw_mask(mask), MASK)
    assert sorted(Quiet.asked) == ["/m.png", "/x.png"]  # fetched once, though read several times
    assert list_pictures(table).sources[1] == f"{address}/x.png"


def test_what_goes_wrong_is_told_by_row(served: tuple[Path, str], memory: Any) -> None:
    folder, address = served
    (folder / "half.png").write_bytes(encoded(PICTURE)[:600])
    (folder / "text.png").write_text("hello")
    cells = [
        f"{address}/gone.png",
        "memory://gone.png",
        "http://127.0.0.1:9/x.png",  # the port "discard": nothing answers
        "nosuch://host/x.png",
        f"{address}/half.png",
        f"{address}/text.png",
    ]
    with pytest.raises(DataError) as caught:
        check_table(cells, need_label=False)
    text = str(caught.value)
    for part in (
        f"missing image (2): row 0: {address}/gone.png",
        "row 1: memory://gone.png",
        "unreachable image (2): row 2: http://127.0.0.1:9/x.png: can't be fetched",
        "row 3: nosuch://host/x.png: can't be fetched (ValueError",
        "download the files",
        f"unreadable image (2): row 4: {address}/half.png: ",
        f"row 5: {address}/text.png: ",
    ):
        assert part in text, text


@pytest.mark.parametrize("missing", ["fsspec", "aiohttp"])
def test_a_missing_package_is_told_with_the_extra(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_such(name: str, *rest: Any, **options: Any) -> Any:
        if name.split(".")[0] == missing:
            raise ImportError(f"No module named {missing!r}")
        return real(name, *rest, **options)

    if missing == "fsspec":
        monkeypatch.setitem(sys.modules, "fsspec", None)
        url = "memory://x.png"
    else:
        real = builtins.__import__
        monkeypatch.setattr(builtins, "__import__", no_such)
        monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, "http", raising=False)
        for name in ("fsspec.implementations.http", "aiohttp"):
            monkeypatch.delitem(sys.modules, name, raising=False)
        url = "http://127.0.0.1:9/x.png"
    with pytest.raises(DataError, match=rf"(?s)row 0: {url}.*pip install 'semseg_automl\[remote\]'"):
        check_table([url], need_label=False)


def test_only_so_much_is_kept(memory: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "KEPT_BYTES", 1000)
    for k in range(4):
        memory.pipe(f"memory://{k}", bytes([k]) * 400)
        assert remote.open_binary(f"memory://{k}").read() == bytes([k]) * 400
    memory.store.clear()
    for k in (2, 3):  # the last two are there still
        assert remote.open_binary(f"memory://{k}").read() == bytes([k]) * 400
    for k in (0, 1):
        with pytest.raises(FileNotFoundError):
            remote.open_binary(f"memory://{k}")
    memory.pipe("memory://large", bytes(2000))
    assert len(remote.open_binary("memory://large").read()) == 2000
    remote.open_binary("memory://2")  # nothing made room for what is too large to be kept
