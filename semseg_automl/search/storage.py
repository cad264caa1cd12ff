"""Where the study lies: a journal beside the model, or whatever storage a URL names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import optuna
from filelock import FileLock
from optuna.storages.journal import JournalFileBackend

from semseg_automl.core.errors import ConfigError
from semseg_automl.search.run_folder import JOURNAL


class _SystemLock:
    """The system's own file lock, which ends with its process; Optuna's outlives it by half a minute."""

    def __init__(self, path: Path) -> None:
        self._lock = FileLock(path)

    def acquire(self) -> bool:
        self._lock.acquire()
        return True

    def release(self) -> None:
        self._lock.release()


class _Journal(JournalFileBackend):
    """A journal that outlives a writer who was killed in the middle of a line, while others go on writing."""

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        lock: Any = self._lock
        lock.acquire()  # which the file's own writing takes once more
        try:
            _cut_torn_line(Path(self._file_path))
            super().append_logs(logs)
        finally:
            lock.release()


def open_storage(url: str | None, folder: Path | None) -> optuna.storages.BaseStorage | None:
    """The storage behind ``url``; without one a journal in ``folder``; without either memory (None).

    Raises
    ------
    ConfigError
        The storage can't be reached, or its driver is not installed.
    """
    if url is not None:
        if not isinstance(url, str) or "://" not in url:
            raise ConfigError(
                f"storage must be a URL such as 'sqlite:///study.db', got {url!r}; None keeps a journal "
                "in the model's folder."
            )
        try:
            return optuna.storages.get_storage(url)
        except Exception as error:  # each database has errors of its own
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise ConfigError(f"storage={url!r} can't be reached: {reason}") from error
    if folder is None:
        return None
    folder.mkdir(exist_ok=True)
    path = folder / JOURNAL
    _drop_torn_line(path)
    lock: Any = _SystemLock(folder / f"{JOURNAL}.lock")  # Optuna's base class for it is not public
    return optuna.storages.JournalStorage(_Journal(str(path), lock_obj=lock))


def _drop_torn_line(path: Path) -> None:
    """Cut off a last line that its writer, killed, did not complete."""
    if path.is_file():
        with FileLock(path.with_name(f"{JOURNAL}.lock")):
            _cut_torn_line(path)


def _cut_torn_line(path: Path) -> None:
    """As :func:`_drop_torn_line`, for who holds the lock."""
    with path.open("r+b") as file:
        end = file.seek(0, 2)
        if not end:
            return
        file.seek(end - 1)
        if file.read(1) == b"\n":
            return
        file.seek(0)
        file.truncate(file.read().rfind(b"\n") + 1)
