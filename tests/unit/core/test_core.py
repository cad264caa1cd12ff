"""Configuration, errors, hardware facts, logging and optional imports."""

from __future__ import annotations

import dataclasses
import io
import json
import logging
from pathlib import Path

import pytest

from semseg_automl.core import errors, hardware, log, optional
from semseg_automl.core.config import RunConfig, group_of, hyperparameter_names


class TestConfig:
    def test_flat_names_are_unique_and_complete(self) -> None:
        config = RunConfig()
        fields = [f.name for p in (config.adapter, config.model, config.optim) for f in dataclasses.fields(p)]
        assert len(fields) == len(set(fields))
        assert list(config.flat()) == fields == list(hyperparameter_names())

    def test_replace_puts_each_value_where_it_belongs(self) -> None:
        config = RunConfig().replace(rank=3, image_size=256, batch_size=2)
        assert (config.adapter.rank, config.model.image_size, config.optim.batch_size) == (3, 256, 2)
        assert RunConfig().adapter.rank == 8  # the original is untouched
        assert [group_of(n) for n in ("rank", "image_size", "batch_size")] == ["adapter", "model", "optim"]

    def test_json_round_trip(self) -> None:
        config = RunConfig().replace(scales=(1, 2), image_size=(320, 480), targets=["q", "v"])
        assert RunConfig.from_json(json.loads(json.dumps(config.to_json()))) == config

    def test_unknown_names_are_refused_with_a_guess(self) -> None:
        with pytest.raises(errors.ConfigError, match="Did you mean 'learning_rate'"):
            RunConfig().replace(learning_rat=1e-3)

    def test_is_frozen(self) -> None:
        with pytest.raises(dataclasses.FrozenInstanceError):
            RunConfig().adapter.rank = 4  # type: ignore[misc]


class TestErrors:
    @pytest.mark.parametrize(
        ("child", "builtin"),
        [
            (errors.DataError, ValueError),
            (errors.ConfigError, ValueError),
            (errors.ArtifactError, OSError),
            (errors.WeightsError, FileNotFoundError),
            (errors.BudgetError, TimeoutError),
            (errors.TrainingError, RuntimeError),
        ],
    )
    def test_each_is_what_scripts_catch(self, child: type[Exception], builtin: type[Exception]) -> None:
        error = child("message")
        assert isinstance(error, errors.SemsegError) and isinstance(error, builtin)
        assert str(error) == "message"

    def test_suggestions(self) -> None:
        assert errors.suggest("lerning_rate", ["learning_rate", "rank"]) == " Did you mean 'learning_rate'?"
        assert errors.suggest("zzz", ["learning_rate"]) == ""
        message = str(errors.unknown_name("loss", 3, ["b", "a"]))
        assert message == "Unknown loss 3. Known: a, b."


class TestHardware:
    def test_detect_works_for_a_folder_that_is_not_there_yet(self, tmp_path: Path) -> None:
        found = hardware.detect(tmp_path / "not" / "yet")
        assert found.cores >= 1 and found.disk_free > 0
        assert found.memory is None or found.memory >= (found.memory_available or 0) > 0

    def test_meminfo(self, tmp_path: Path) -> None:
        file = tmp_path / "meminfo"
        file.write_text("MemTotal:       2048 kB\nHugePages_Total:       0\n\nodd line\n", encoding="ascii")
        assert hardware.read_meminfo(file) == {"MemTotal": 2048 * 1024, "HugePages_Total": 0}
        assert hardware.read_meminfo(tmp_path / "absent") == {}


class TestLog:
    @pytest.mark.parametrize(
        ("level", "shown"), [(0, "e"), (1, "ew"), (2, "ewi"), (3, "ewid"), (4, "ewid"), (-1, "e")]
    )
    def test_verbosity_is_a_level_for_a_while(
        self, level: int, shown: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        logger, stream = log.get_logger("data"), io.StringIO()
        monkeypatch.setattr(logging.getLogger(), "handlers", [])  # pytest's: a user's process has none
        monkeypatch.setattr("sys.stderr", stream)
        parent = logging.getLogger(log.LOGGER_NAME)
        before = (parent.level, list(parent.handlers))
        with log.verbosity(level):
            for name in ("error", "warning", "info", "debug"):
                getattr(logger, name)(name[0])
        assert "".join(stream.getvalue().split()) == shown
        assert (parent.level, parent.handlers) == before

    def test_the_users_handlers_print(self, monkeypatch: pytest.MonkeyPatch) -> None:
        stream, own = io.StringIO(), io.StringIO()
        monkeypatch.setattr("sys.stderr", stream)
        monkeypatch.setattr(logging.getLogger(), "handlers", [logging.StreamHandler(own)])
        with log.verbosity(2):
            log.get_logger("data").info("hello")
        assert own.getvalue() == "hello\n" and stream.getvalue() == ""

    def test_it_is_restored_after_an_error(self) -> None:
        parent = logging.getLogger(log.LOGGER_NAME)
        before = (parent.level, list(parent.handlers))
        with pytest.raises(KeyError), log.verbosity(2):
            raise KeyError
        assert (parent.level, parent.handlers) == before


class TestOptional:
    def test_present(self) -> None:
        assert optional.require("json", extra="x", purpose="X") is json

    def test_absent_says_how_to_install(self) -> None:
        with pytest.raises(errors.ConfigError, match=r"A cluster needs .*pip install 'semseg.automl\[ray\]'"):
            optional.require("no_such_package", extra="ray", purpose="A cluster")
