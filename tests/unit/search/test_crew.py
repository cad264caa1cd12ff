"""What the processes of a search tell one another through files, without starting any."""

from __future__ import annotations

import json
import math
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest

from semseg_automl import __version__
from semseg_automl.core.config import RunConfig
from semseg_automl.core.errors import ArtifactError, ConfigError
from semseg_automl.data.frame import check_table
from semseg_automl.data.labels import infer_label_map, scan_masks
from semseg_automl.data.sample_files import in_files
from semseg_automl.search import pulse, workers
from semseg_automl.search.notice import (
    END,
    INTERRUPTED,
    NOTICE,
    Notice,
    heard_stop,
    read_job,
    read_notice,
    say_stop,
    write_notice,
)
from semseg_automl.search.planner import Probe, make_plan
from semseg_automl.search.pulse import PATIENCE, Listener, Pulse, read_beat
from semseg_automl.search.request import FitRequest, TuneSettings
from semseg_automl.search.run_folder import JOURNAL, RunFolder
from semseg_automl.search.space import Categorical, Int, Real, Space, space_from_json, space_to_json
from semseg_automl.search.storage import open_storage
from semseg_automl.search.study import (
    REQUEUED,
    WORKER,
    ask,
    hand_back,
    is_running,
    open_study,
    others_at_work,
    quiet_optuna,
    report_to,
    requeue_stale,
    tell,
)
from semseg_automl.training.job import TrainJob
from tests.unit.search.test_run import FACTS, FAST

CONFIG = RunConfig()
SPACES: dict[str, Space] = {"rank": Int(2, 32, log=True)}


@pytest.mark.parametrize(
    "space",
    [
        Int(2, 32, log=True),
        Real(1e-4, 1e-2),
        Categorical("lora", None, 3, True),
        Categorical((1, 2), (1, 3)),
    ],
)
def test_spaces_survive_json(space: Space) -> None:
    assert space_from_json(json.loads(json.dumps(space_to_json(space)))) == space


def notice(**changes: Any) -> Notice:
    plan = make_plan(FitRequest(config=CONFIG), FACTS, FAST, 600.0, workers=2)
    parts: dict[str, Any] = {
        "ident": "one",
        "plan": plan,
        "settings": TuneSettings(num_trials=4, max_latency=0.5),
        "most": 5,
        "study": "m",
        "storage": None,
        "seed": 3,
        "began": 1e9,
        "limit": math.inf,
        "log_level": 20,
    }
    return Notice(**{**parts, **changes})


@pytest.fixture
def job(textures: Any) -> TrainJob:
    samples = check_table(textures, need_label=True)
    return TrainJob(
        config=CONFIG,
        label_map=infer_label_map(scan_masks(samples.masks or ())),
        train=samples.subset(range(8)),
        val=samples.subset(range(8, 12)),
        weights=None,
        eval_metric="mean_iou",
        feature_cache="kept",
    )


def test_a_notice_survives_its_files(job: TrainJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "search" / "crew"
    monkeypatch.chdir(Path(str(job.train.images[0])).parent)
    relative = replace(job.train, images=tuple(Path(str(p)).name for p in job.train.images))
    write_notice(notice(), replace(job, train=relative), folder)
    assert read_notice(folder) == notice()
    monkeypatch.chdir("/")  # a process of another folder
    found = read_job(folder)
    assert found.train.images == tuple(map(str, job.train.images)) and found.config == job.config
    assert Path(str(found.feature_cache)).is_absolute()
    write_notice(notice(ident="two"), job, folder)  # what was there before is gone
    assert read_notice(folder).ident == "two"


def test_notices_that_are_of_no_use(job: TrainJob, tmp_path: Path) -> None:
    folder = tmp_path / "crew"
    write_notice(notice(version="0.0"), job, folder)
    with pytest.raises(ArtifactError, match=rf"run by version 0\.0, this is {__version__}"):
        read_notice(folder)
    (folder / NOTICE).write_text("{")
    with pytest.raises(ArtifactError, match="can't be joined"):
        read_notice(folder)
    with pytest.raises(ConfigError, match="function"):
        write_notice(notice(), replace(job, config=CONFIG.replace(augment=lambda x: x)), folder)
    assert not (folder / NOTICE).exists()


def test_pictures_in_memory_are_told_from_files(textures: Any) -> None:
    import numpy as np

    samples = check_table(textures, need_label=True)
    assert in_files(samples)
    assert not in_files(replace(samples, images=(np.zeros((4, 4, 3), np.uint8), *samples.images[1:])))


def test_stops_are_heard(tmp_path: Path) -> None:
    assert heard_stop(tmp_path) == ""
    say_stop(tmp_path, INTERRUPTED)
    assert heard_stop(tmp_path) == INTERRUPTED
    assert heard_stop(tmp_path / "gone") == END


def test_signs_of_life(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, now = tmp_path / "a.json", [0.0]
    monkeypatch.setattr(pulse.time, "monotonic", lambda: now[0])
    listener = Listener(path)

    def look() -> bool:
        now[0] += pulse.BEAT_SECONDS
        return listener.alive()

    with Pulse(path, lambda: {"ident": "x"}) as beating:
        beating._stop.set()  # no more than we ask for
        assert look() and listener.facts["ident"] == "x"
        assert all(look() for _ in range(PATIENCE - 1))
        beating.beat()
        assert all(look() for _ in range(PATIENCE)) and not look()
        beating.beat()
        assert look()
        assert all(listener.alive() for _ in range(10 * PATIENCE))  # looks without a pause don't count
    assert read_beat(path) is None


def test_one_at_a_time_decides(tmp_path: Path) -> None:
    """The turn of a process is another's wait."""
    files, order = RunFolder(tmp_path), []
    assert files.path is not None
    files.path.mkdir()
    inside, leave = threading.Event(), threading.Event()

    def first() -> None:
        with files.turn():
            inside.set()
            leave.wait(20)
            order.append("first")

    def second() -> None:
        with RunFolder(tmp_path).turn():
            order.append("second")

    threads = [threading.Thread(target=first), threading.Thread(target=second)]
    threads[0].start()
    assert inside.wait(20)
    threads[1].start()
    threads[1].join(0.3)
    leave.set()
    for thread in threads:
        thread.join()
    assert order == ["first", "second"]
    with RunFolder(None).turn():  # nothing to lock
        pass


def study_of(folder: Path) -> optuna.Study:
    with quiet_optuna():
        return open_study(TuneSettings(), 0, open_storage(None, folder), "test", paused=True)


def begun(study: optuna.Study, worker: str) -> optuna.Trial:
    trial, _ = ask(study, CONFIG, SPACES)
    trial.set_user_attr(WORKER, worker)
    return trial


def test_a_writer_that_is_killed_in_a_line_stops_nobody(tmp_path: Path) -> None:
    one, two = study_of(tmp_path), study_of(tmp_path)
    tell(one, begun(one, "main"), 0.4)
    with (tmp_path / JOURNAL).open("ab") as file:  # by a third process
        file.write(b'{"op_code": 6, "worker')
    tell(two, begun(two, "worker_1"), 0.5)
    tell(one, begun(one, "main"), 0.6)
    for study in (one, two, study_of(tmp_path)):
        assert [t.value for t in study.trials] == [0.4, 0.5, 0.6]


def test_lost_and_handed_back(tmp_path: Path) -> None:
    main, helper = study_of(tmp_path), study_of(tmp_path)
    lost, kept = begun(helper, "worker_1"), begun(main, "main")
    assert others_at_work(main, "main") and others_at_work(main, "worker_1")
    found = requeue_stale(main, lambda t: t.user_attrs.get(WORKER) == "worker_1")
    assert found == [lost.number] and is_running(main, kept.number) and not is_running(helper, lost.number)
    assert report_to(lost)(5, 0.5)  # the process lives after all: it is told to stop
    again = begun(helper, "worker_2")
    assert again.user_attrs[REQUEUED] == lost.number
    hand_back(helper, "worker_2")
    hand_back(helper, "worker_2")  # nothing left
    states = [t.state.name for t in main.trials]
    assert states == ["FAIL", "RUNNING", "FAIL", "WAITING"] and not others_at_work(main, "main")
    assert main.trials[3].user_attrs[REQUEUED] == again.number


# how many


def request(**tune: Any) -> FitRequest:
    return FitRequest(config=CONFIG, tune=TuneSettings(**tune), folder=Path("m"))


def test_the_number_that_was_asked_for() -> None:
    empty: Any = None
    cpu = TrainJob(config=CONFIG, label_map=empty, train=empty, val=empty, weights=empty, eval_metric="iou")
    gpus = replace(cpu, accelerator="cuda", device_ids=(0, 1, 2))
    fixed = workers.fixed_workers
    assert fixed(request(num_workers=3), cpu, 600.0) == 3
    assert fixed(request(), gpus, 600.0) == 3 and fixed(request(num_workers=1), gpus, 600.0) == 1
    assert fixed(request(), cpu, 600.0) is None
    for alone in (
        request(sampler=optuna.samplers.RandomSampler()),
        replace(request(), tune=None),
        replace(request(), folder=None),
        replace(request(), own_augment=lambda image, mask, _rng: (image, mask)),
    ):
        assert fixed(alone, gpus, 600.0) == 1
    assert fixed(request(num_workers=3), cpu, 10.0) == 1  # no time to start them


@pytest.mark.parametrize(
    ("cores", "slowdown", "memory", "number"),
    [(2, 1.0, True, 1), (8, 1.2, True, 2), (8, 1.9, True, 1), (8, 1.2, False, 1), (32, 3.0, True, 8)],
)
def test_a_cpu_is_measured(
    cores: int, slowdown: float, memory: bool, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``slowdown``: of a step on a share of the cores."""
    empty: Any = None
    job = TrainJob(config=CONFIG, label_map=empty, train=empty, val=empty, weights=empty, eval_metric="iou")
    slow = Probe(
        train_seconds_per_mpx=slowdown * FAST.train_seconds_per_mpx,
        predict_seconds_per_mpx=slowdown * FAST.predict_seconds_per_mpx,
    )
    answers = iter([FAST, slow])
    monkeypatch.setattr(workers, "usable_cores", lambda: cores)
    monkeypatch.setattr(workers, "memory_carries", lambda _n: memory)
    monkeypatch.setattr(workers, "probe_speed", lambda *_a: next(answers))
    found, probe = workers.measure(request(), job, FACTS, 3600.0)
    assert found == number and probe == (slow if number > 1 else FAST)
