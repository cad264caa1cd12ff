"""Many items at once, with progress where there is much to wait for."""

from __future__ import annotations

import threading
import time

import pytest

from semseg_automl.core.log import verbosity
from semseg_automl.data.sources import parallel


def test_results_are_in_order_and_errors_come_through() -> None:
    assert parallel(lambda i: i * i, range(3000), title="Squares") == [i * i for i in range(3000)]
    with pytest.raises(ZeroDivisionError):
        parallel(lambda i: 1 // (i - 50), range(100))


def test_threads_share_what_takes_long_and_nothing_else() -> None:
    """Judged block by block: a table may hold small files and large ones."""

    def work(item: int) -> str:
        if item >= 512:
            time.sleep(0.002)
        return threading.current_thread().name

    names = parallel(work, range(600))
    here = threading.current_thread().name
    assert set(names[:512]) == {here} == set(names[512:520]) and here not in names[520:]


@pytest.mark.parametrize(("level", "count", "shown"), [(2, 3000, True), (2, 100, False), (0, 3000, False)])
def test_a_bar_is_shown_for_thousands_and_only_where_progress_is_logged(
    capsys: pytest.CaptureFixture[str], level: int, count: int, shown: bool
) -> None:
    with verbosity(level):
        parallel(lambda i: i, range(count), title="Checking images")
    assert ("Checking images" in capsys.readouterr().err) == shown
