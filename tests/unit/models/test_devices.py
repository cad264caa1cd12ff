"""Devices, and the preparation of a CPU process."""

from __future__ import annotations

import subprocess
import sys
import weakref
from types import SimpleNamespace

import pytest
import torch

from semseg_automl.core.errors import ConfigError
from semseg_automl.models import devices
from semseg_automl.models.devices import DeviceChoice, memory_probe, pick_devices


@pytest.fixture
def cpu_only(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)


@pytest.fixture
def two_gpus(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)


@pytest.mark.parametrize(
    "asked, kind, ids",
    [("auto", "cpu", (0,)), (2, "cpu", (0, 1)), ("cpu", "cpu", (0,)), ("cpu:2", "cpu", (0, 1))],
)
def test_without_accelerator(cpu_only, asked, kind, ids):
    assert pick_devices(asked) == DeviceChoice(kind, ids)


@pytest.mark.parametrize(
    "asked, kind, ids",
    [
        ("auto", "cuda", (0, 1)),
        (1, "cuda", (0,)),
        ([1], "cuda", (1,)),
        ("cuda", "cuda", (0, 1)),
        ("cuda:1", "cuda", (1,)),
        ("cpu", "cpu", (0,)),
    ],
)
def test_with_two_gpus(two_gpus, asked, kind, ids):
    assert pick_devices(asked) == DeviceChoice(kind, ids)


def test_mps_comes_before_cpu(cpu_only, monkeypatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert pick_devices().kind == "mps"


@pytest.mark.parametrize(
    "asked", ["cuda", "cuda:0", "mps", "tpu", "cuda:x", "cpu:0", 0, -1, True, [], [0], ["0"], None, 1.5]
)
def test_refused(cpu_only, asked):
    with pytest.raises(ConfigError, match="devices="):
        pick_devices(asked)


@pytest.mark.parametrize("asked", [3, "cuda:2", [0, 0], "cuda:0,0"])
def test_gpus_that_are_not_there_or_twice(two_gpus, asked):
    with pytest.raises(ConfigError):
        pick_devices(asked)


def test_names():
    assert str(DeviceChoice("cuda", (0, 1))) == "cuda:0,1" and str(DeviceChoice("cpu")) == "cpu"
    assert DeviceChoice("cuda", (3,)).torch_device() == torch.device("cuda", 3)
    assert DeviceChoice("cpu", (0, 1)).torch_device(1) == torch.device("cpu")


def test_prepare_cpu_flushes_denormals_in_every_thread():
    code = (
        "import torch; from semseg_automl.models.devices import prepare_cpu; prepare_cpu(2);"
        "x = torch.full((1 << 20,), 1e-38) * 1e-3;"
        "raise SystemExit(int((x != 0).sum() > 0) + torch.get_num_threads())"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 2


@pytest.mark.parametrize("before", [False, True])
def test_flushed_denormals_restores_what_was_set(before: bool) -> None:
    at_first = devices.flushes_denormals()
    try:
        torch.set_flush_denormal(before)
        with pytest.raises(KeyError), devices.flushed_denormals():
            assert devices.flushes_denormals()
            assert float(torch.tensor(1e-38) * 1e-3) == 0.0
            raise KeyError
        assert devices.flushes_denormals() is before
        assert (float(torch.tensor(1e-38) * 1e-3) == 0.0) is before
    finally:
        torch.set_flush_denormal(at_first)


def test_mallopt_only_on_glibc(monkeypatch):
    monkeypatch.setattr(devices.sys, "platform", "win32")
    assert devices.keep_freed_memory() is False


def test_memory_probe_sees_an_allocation():
    with memory_probe(DeviceChoice("cpu")) as probe:
        held = torch.ones(8_000_000)
    assert probe.seconds > 0 and held.numel()
    assert probe.peak_bytes is None or probe.peak_bytes > 32_000_000


def test_threads_are_shared(monkeypatch):
    monkeypatch.setattr(devices, "usable_cores", lambda: 5)
    assert [devices.default_threads(n) for n in (1, 2, 9)] == [5, 2, 1]


def test_peak_memory_is_known_on_linux(monkeypatch):
    assert devices.peak_memory_mb() > 1 or sys.platform != "linux"
    monkeypatch.setattr(devices, "read_meminfo", lambda path: {})
    assert devices.peak_memory_mb() != devices.peak_memory_mb()  # NaN


def test_what_a_cycle_holds_is_freed():
    class Held:
        pass

    held = Held()
    held.itself, seen = held, weakref.ref(held)
    del held
    assert seen() is not None
    devices.give_back_memory("cpu")
    assert seen() is None


def test_gpus_are_described(monkeypatch):
    facts = SimpleNamespace(name="a GPU", total_memory=8 << 30, major=7, minor=5)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda i: facts)
    assert devices.describe_gpus() == [
        {"index": 0, "name": "a GPU", "memory": 8 << 30, "capability": "7.5", "bfloat16": False}
    ]
