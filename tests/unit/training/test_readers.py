"""What torch says of lost reading processes is understood; provoked, not copied, where that is possible."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from semseg_automl.core.errors import DataError
from semseg_automl.training.readers import in_own_words, lost_reader

MESSAGE = "a.png: cannot identify image file.\nSecond line: with words."


class Reading(Dataset):
    """Its reader dies or meets wrong data at the second item."""

    def __init__(self, fault: str) -> None:
        self.fault = fault

    def __len__(self) -> int:
        return 4

    def __getitem__(self, i: int) -> torch.Tensor:
        if i == 1 and self.fault == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if i == 1 and self.fault == "exits":
            os._exit(3)
        if i == 1 and self.fault == "data":
            raise DataError(MESSAGE)
        if i == 1:
            raise RuntimeError("size mismatch")
        return torch.zeros(1)


def error_of(fault: str) -> BaseException:
    with pytest.raises((RuntimeError, DataError)) as caught:
        list(DataLoader(Reading(fault), num_workers=1))
    return caught.value


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
def test_a_killed_reader() -> None:
    lost = lost_reader(error_of("killed"))
    assert lost is not None and lost.startswith("DataLoader worker (pid") and "\n" not in lost


def test_a_reader_that_exits() -> None:
    lost = lost_reader(error_of("exits"))
    assert lost is not None and "exit" in lost


@pytest.mark.parametrize("fault", ["data", "other"])
def test_an_error_that_a_reader_meets_is_no_loss(fault: str) -> None:
    assert lost_reader(error_of(fault)) is None


def test_wrong_data_in_its_own_words() -> None:
    error = error_of("data")
    assert isinstance(error, DataError) and "Traceback" in str(error)
    assert str(in_own_words(error)) == MESSAGE
    plain = DataError("b.png: no such file.")
    assert in_own_words(plain) is plain


@pytest.mark.parametrize(
    "line",
    [
        "RuntimeError: unable to write to file </torch_12_34_0>: No space left on device (28)",
        "RuntimeError: unable to allocate shared memory(shm) for file </torch_1_2>: Again (11)",
        "RuntimeError: received 0 items of ancdata",
        "OSError: [Errno 24] Too many open files",
    ],
)
def test_shared_memory_and_handles(line: str, tmp_path: Path) -> None:
    """As torch and Python word them (torch/csrc, aten/src/ATen/MapAllocator.cpp, multiprocessing)."""
    text = f"Caught RuntimeError in DataLoader worker process 0.\nOriginal Traceback:\n  ...\n{line}\n"
    assert lost_reader(RuntimeError(text)) == line
