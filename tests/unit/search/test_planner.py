"""The plan as a table of cases: facts in, sizes, steps and trials out; no clock, no data."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from semseg_automl.core.config import RunConfig
from semseg_automl.search.allotment import MAX_TRIALS, RUNG_VALIDATIONS, SHORTEST_RUNG
from semseg_automl.search.planner import (
    CLASS_CROPS,
    LARGE,
    LEAST_SAMPLES,
    LEAST_SIDE,
    MAX_CROP,
    MAX_SIDE,
    MAX_STEPS,
    MIN_SIDE,
    SMALL_SHARE,
    STRIDE,
    THIN_SAMPLES,
    WANTED_SAMPLES,
    WHOLE_SIDE,
    Fingerprint,
    Plan,
    Probe,
    make_plan,
    mean_cost,
    misses_classes,
    natural_side,
    train_crop,
    train_pixels,
    wants_windows,
)
from semseg_automl.search.request import FitRequest, TuneSettings
from semseg_automl.search.rungs import ETA, MAX_CHAINS, chain_cost
from semseg_automl.search.space import Categorical, Int, Real, Space

FACTS = Fingerprint(n_train=400, n_val=60, height=288, width=384, n_classes=2, foreground=0.1, thinness=0.01)
TINY_SET = replace(FACTS, n_train=8, n_val=2, height=64, width=80)
HUGE = replace(FACTS, height=3000, width=4000)
LAPTOP = Probe(train_seconds_per_mpx=1.6, predict_seconds_per_mpx=0.5)
GPU = Probe(train_seconds_per_mpx=0.01, predict_seconds_per_mpx=0.004, precision="bf16-mixed")


def plan(facts: Fingerprint = FACTS, probe: Probe = LAPTOP, seconds: float = 600.0, **request: Any) -> Plan:
    hyper = request.pop("hyper", {})
    given = FitRequest(config=RunConfig().replace(**hyper), given=frozenset(hyper), **request)
    return make_plan(given, facts, probe, seconds)


def side(found: Plan) -> int:
    size = found.config.model.image_size
    assert isinstance(size, int)
    return size


@pytest.mark.parametrize("facts", [FACTS, TINY_SET, HUGE, replace(FACTS, height=500, width=31)])
@pytest.mark.parametrize("probe", [LAPTOP, GPU])
@pytest.mark.parametrize("seconds", [0.0, 1.0, 5.0, 600.0, 36000.0, math.inf])
def test_every_plan_is_possible(facts: Fingerprint, probe: Probe, seconds: float) -> None:
    found = plan(facts, probe, seconds)
    assert LEAST_SIDE <= side(found) <= MAX_SIDE and side(found) % STRIDE == 0
    h, w = found.config.optim.crop_size  # type: ignore[misc]
    assert h % STRIDE == w % STRIDE == 0 and max(h, w) <= min(MAX_CROP, side(found) + STRIDE)
    assert found.max_steps >= 1 and found.trials >= 1 and found.reasons
    assert found.precision == probe.precision
    cost = chain_cost(len(found.rungs)) * found.horizon * found.trials
    assert cost + found.finish <= seconds * (1 + 1e-9) + 1e-6 or seconds == math.inf
    assert found == plan(facts, probe, seconds)  # pure
    assert found.rungs[-1] == found.horizon and list(found.rungs) == sorted(found.rungs)
    assert found.trials >= ETA ** (len(found.rungs) - 1)  # or none would reach the last rung


@pytest.mark.parametrize(
    ("height", "width", "thickness", "cut"),
    [
        (4000, 6000, 10, True),  # 1.7 pixels at 1024
        (6000, 4000, 10, True),
        (4000, 6000, 30, False),  # 5.1 pixels are enough
        (300, LARGE, 2, False),  # not large
        (300, LARGE + 1, 2, True),
        (20_000, 20_000, 77, True),
        (20_000, 20_000, 80, False),
    ],
)
def test_large_pictures_are_cut_where_things_would_vanish(
    height: int, width: int, thickness: float, cut: bool
) -> None:
    thinness = thickness / max(height, width)
    assert wants_windows(replace(FACTS, height=height, width=width, thinness=thinness)) == cut


def test_windows_are_told_in_the_plan() -> None:
    windows = replace(FACTS, height=1000, width=1000, cut_from=(4000, 6000))
    assert plan(windows).reasons[0].startswith("pictures of 4000 x 6000 are cut into windows of 1000 x 1000")
    assert plan(windows).config == plan(replace(windows, cut_from=None)).config


def test_tiny_set() -> None:
    found = plan(TINY_SET)
    assert side(found) == MIN_SIDE and found.config.optim.crop_size == train_crop(TINY_SET, MIN_SIDE)
    assert found.trials == 1 and found.horizon == 600.0 and found.finish == 0.0
    assert "1 model: the time holds one decent training" in found.reasons


def test_huge_pictures_shrink_until_the_time_holds_a_decent_training() -> None:
    slow, fast = plan(HUGE, LAPTOP, 120.0), plan(HUGE, GPU, 120.0)
    assert side(fast) == MAX_SIDE and side(slow) < side(fast)
    sample = train_pixels(HUGE, side(slow), slow.config.optim.crop_size) * LAPTOP.train_seconds_per_mpx
    assert 120.0 / sample >= (THIN_SAMPLES if side(slow) > MIN_SIDE else LEAST_SAMPLES)
    assert fast.config.optim.crop_size == (MAX_CROP, MAX_CROP)


def test_more_time_never_means_smaller_pictures() -> None:
    for facts in (FACTS, HUGE):
        sides = [side(plan(facts, LAPTOP, t)) for t in (5, 60, 300, 600, 1200, 3600, 36000)]
        assert sides == sorted(sides)


def test_short_limit() -> None:
    found = plan(seconds=5.0)
    assert (side(found), found.trials, found.horizon) == (LEAST_SIDE, 1, 5.0)


def test_long_limit_on_a_fast_machine_is_a_search_with_room_to_finish() -> None:
    found = plan(probe=GPU, seconds=600.0)
    assert 2 <= found.trials <= MAX_CHAINS and set(found.spaces) == {"rank", "num_experts", "learning_rate"}
    assert found.finish == pytest.approx(0.15 * 600) and found.horizon == pytest.approx(
        0.85 * 600 / found.trials / chain_cost(len(found.rungs))
    )
    assert plan(probe=GPU, seconds=1e6).trials == MAX_CHAINS
    assert plan(probe=GPU, seconds=600.0, finish_share=0.3).finish == pytest.approx(180.0)


def test_steps_follow_the_clock_or_the_epochs() -> None:
    assert plan(seconds=600.0).max_steps == MAX_STEPS  # the clock ends it earlier
    assert plan(seconds=math.inf).max_steps == 30 * 400 / 4
    assert plan(seconds=600.0, hyper={"max_epochs": 2}).max_steps == 2 * 400 / 4
    assert plan(seconds=math.inf, hyper={"max_epochs": 1, "batch_size": 3}).max_steps == 134


@pytest.mark.parametrize("size", [96, 1500, (64, 320)])
def test_a_fixed_image_size_is_respected(size: Any) -> None:
    found = plan(hyper={"image_size": size})
    assert found.config.model.image_size == size and found.config.optim.crop_size is None
    assert not [r for r in found.reasons if r.startswith("image_size")]


def test_a_fixed_crop_is_respected() -> None:
    fixed, whole = plan(hyper={"crop_size": 128}), plan(hyper={"crop_size": None})
    assert fixed.config.optim.crop_size == 128 and whole.config.optim.crop_size is None
    assert "trained on crops of 128 x 128" in fixed.reasons[0]
    assert "trained on whole pictures" in whole.reasons[0]


def test_searched_picture_sizes_are_seen_whole() -> None:
    """The crop of one size would be mostly padding around a small one, and a small part of a large one."""
    spaces = {"image_size": Categorical(192, 512, 1024)}
    assert plan(spaces=spaces).config.optim.crop_size is None
    both = plan(spaces={**spaces, "crop_size": Categorical(128, 192)})
    assert both.config.optim.crop_size is not None


def test_a_searched_schedule_is_not_paused() -> None:
    long = {"seconds": 4 * 3600.0, "tune": TuneSettings(num_trials=9)}
    assert len(plan(**long, spaces={"rank": Int(2, 32)}).rungs) > 1
    for name, choices in (("schedule", ("cosine", "wsd")), ("warmup", (0.0, 0.1)), ("max_epochs", (5, 50))):
        spaces: dict[str, Space] = {"rank": Int(2, 32), name: Categorical(*choices)}
        assert len(plan(**long, spaces=spaces).rungs) == 1


def test_trials_make_the_steps_of_their_own_epochs() -> None:
    epochs, batches = {"max_epochs": Categorical(5, 50)}, {"batch_size": Categorical(1, 4)}
    assert plan(spaces=epochs).own_steps and plan(hyper={"max_epochs": 5}, spaces=batches).own_steps
    assert not plan(spaces=batches).own_steps  # the clock ends them
    assert not plan(hyper={"max_epochs": 5}, spaces={"rank": Categorical(4, 8)}).own_steps


def test_whole_pictures_cost_what_they_cost() -> None:
    """Where no crops may shrink, the pictures do, until the time holds as many as with crops."""
    roads, slow = replace(FACTS, height=750, width=750), replace(LAPTOP, train_seconds_per_mpx=2.7)
    assert side(plan(roads, slow)) == 768 and side(plan(roads, slow, hyper={"crop_size": None})) <= 448


def test_size_factor_of_a_preset_stays_in_bounds() -> None:
    factors = [natural_side(FACTS, f) for f in (0.5, 1.0, 1.25, 1.5, 9.0)]
    assert factors == [MIN_SIDE, 576, 704, 864, MAX_SIDE]
    assert natural_side(TINY_SET, 0.5) == MIN_SIDE
    assert side(plan(probe=GPU, size_factor=1.25)) == 704


def test_what_the_user_fixed_is_not_searched() -> None:
    found = plan(probe=GPU, hyper={"rank": 4, "learning_rate": 1e-3})
    assert set(found.spaces) == {"num_experts"} and found.config.adapter.rank == 4
    everything = plan(probe=GPU, hyper={"rank": 4, "learning_rate": 1e-3, "num_experts": 2})
    assert everything.trials == 1 and "1 model: nothing is left to search" in everything.reasons


@pytest.mark.parametrize(
    ("request_", "seconds", "trials"),
    [
        ({"tune": None}, 1e6, 1),  # no search
        ({"tune": TuneSettings(num_trials=7)}, 5.0, 7),  # as asked
        ({"tune": TuneSettings(num_trials=1)}, 1e6, 1),
        ({"tune": TuneSettings(num_trials=3)}, math.inf, 3),
        ({}, 5.0, 1),  # the planner decides: no room
        ({"spaces": {"rank": Categorical(2, 4)}}, 5.0, 2),  # asked for: at least two
        ({"auto_tune": False}, 5.0, 2),
        ({"hyper": {"max_epochs": 1}}, math.inf, 1),  # exactly max_epochs
        ({"hyper": {"max_epochs": 1}}, 1e6, MAX_TRIALS),  # each trial is one short epoch
        ({"hyper": {"max_epochs": 1000}}, 600.0, 1),  # not two of these
    ],
)
def test_number_of_trials(request_: dict[str, Any], seconds: float, trials: int) -> None:
    assert plan(seconds=seconds, **request_).trials == trials


def test_a_users_space_replaces_the_default_one() -> None:
    spaces = {"learning_rate": Real(1e-4, 1e-3)}
    assert plan(probe=GPU, spaces=spaces).spaces == spaces


def test_crops_are_the_median_picture_in_strides() -> None:
    assert train_crop(FACTS, 384) == (288, 384)
    assert train_crop(replace(FACTS, height=300), 384) == (320, 384)
    assert train_crop(HUGE, 1024) == (MAX_CROP, MAX_CROP)
    assert train_pixels(FACTS, 384, None) == pytest.approx(288 * 384 / 1e6)
    assert train_pixels(FACTS, 384, 100) == pytest.approx(128 * 128 / 1e6)


def test_thick_things_are_seen_whole_and_thin_ones_enlarged() -> None:
    leaf = replace(FACTS, height=480, width=640, thinness=0.06)
    whole, crops = plan(leaf), plan(replace(leaf, thinness=0.006))
    assert side(whole) == WHOLE_SIDE and whole.config.optim.crop_size == (384, 512)
    assert side(crops) > WHOLE_SIDE and crops.config.optim.crop_size == (MAX_CROP, MAX_CROP)
    assert side(plan(replace(FACTS, thinness=0.06))) == 480  # 384 pixels, enlarged by 1.25


def test_where_things_are_thin_crops_shrink_before_pictures_do() -> None:
    roads = replace(FACTS, height=750, width=750)
    slower = [replace(LAPTOP, train_seconds_per_mpx=s) for s in (0.5, 2.7, 3.8, 12.0)]
    found = [plan(roads, probe) for probe in slower]
    assert [side(f) for f in found[:3]] == [768] * 3 and side(found[3]) < 768
    assert [f.config.optim.crop_size for f in found] == [(448, 448), (416, 416), (352, 352), (320, 320)]
    assert "suits" in found[0].reasons[0] and "in the time" in found[1].reasons[0]
    whole = plan(replace(roads, thinness=0.06), slower[3])  # nothing thin: no crops to shrink
    assert side(whole) < WHOLE_SIDE and whole.config.optim.crop_size == (side(whole), side(whole))


def test_few_epochs_get_flips_only() -> None:
    short, long, fixed = plan(), plan(TINY_SET), plan(hyper={"augment": "strong"})
    assert short.config.optim.augment == "light" and "'light'" in short.reasons[-1]
    assert long.config.optim.augment == RunConfig().optim.augment  # hundreds of epochs
    assert fixed.config.optim.augment == "strong"
    assert plan(seconds=math.inf).config.optim.augment == "light"  # max_epochs is 30
    assert plan(seconds=math.inf, hyper={"max_epochs": 100}).config.optim.augment == "medium"


def test_frames_of_videos_get_more_than_flips() -> None:
    frames = plan(replace(FACTS, n_train=400, variety=0.25))
    assert frames.config.optim.augment == RunConfig().optim.augment != "light"
    assert frames.reasons[-1] == "augment 'medium': the pictures show about 100 scenes"
    assert plan(replace(FACTS, variety=0.8)).config.optim.augment == "light"
    assert plan(replace(FACTS, variety=0.1), hyper={"augment": "none"}).config.optim.augment == "none"


def test_thick_things_are_seen_more_often_rather_than_larger() -> None:
    leaf = replace(FACTS, height=480, width=640, thinness=0.06)
    found = plan(leaf, replace(LAPTOP, train_seconds_per_mpx=2.0))
    h, w = found.config.optim.crop_size  # type: ignore[misc]
    assert side(found) < WHOLE_SIDE and (h, w) == train_crop(leaf, side(found))
    assert 0.85 * 600 / (h * w / 1e6 * 2.0) >= WANTED_SAMPLES


def test_a_training_that_the_clock_ends_begins_on_smaller_pictures_unless_things_are_thin() -> None:
    thick = replace(FACTS, thinness=0.06)
    found = plan(thick)
    assert found.config.optim.small_share == SMALL_SHARE and "shrunk" in " ".join(found.reasons)
    assert plan(FACTS).config.optim.small_share == 0.0  # thin
    assert plan(thick, seconds=math.inf).config.optim.small_share == 0.0  # counts steps, not seconds
    assert plan(thick, hyper={"max_epochs": 5}).config.optim.small_share == 0.0
    assert plan(thick, seconds=5.0).config.optim.small_share == 0.0  # a few steps
    assert plan(thick, hyper={"small_share": 0.2}).config.optim.small_share == 0.2


def test_mean_cost_is_time_over_samples() -> None:
    # 10 s, a sample takes 1 s at full size and 0.25 s at half: 6 s of small ones, 4 s of full ones
    assert mean_cost(0.6, 0.5) == pytest.approx(10 / (6 / 0.25 + 4 / 1))
    assert mean_cost(0.0, 0.5) == 1.0


def test_paused_trials_begin_on_smaller_pictures_too() -> None:
    thick = replace(FACTS, thinness=0.06)
    found = plan(thick, seconds=NIGHT)
    assert len(found.rungs) > 1 and found.config.optim.small_share == SMALL_SHARE
    assert plan(FACTS, seconds=NIGHT).config.optim.small_share == 0.0  # thin


RARE = replace(FACTS, n_classes=12, foreground=0.001)
THICK = replace(FACTS, thinness=0.06)
MINUTE, NIGHT = 60.0, 8 * 3600.0


@pytest.mark.parametrize(
    ("facts", "probe", "seconds", "rungs"),
    [
        (FACTS, LAPTOP, MINUTE, 1),  # no time for two decent trainings
        (FACTS, LAPTOP, 600.0, 1),
        (FACTS, LAPTOP, NIGHT, 3),
        (TINY_SET, LAPTOP, NIGHT, 3),
        (HUGE, LAPTOP, NIGHT, 3),
        (RARE, LAPTOP, NIGHT, 3),
        (THICK, LAPTOP, NIGHT, 3),
        (FACTS, GPU, MINUTE, 1),  # rungs would be shorter than building the network is worth
        (FACTS, GPU, 600.0, 3),
        (HUGE, GPU, NIGHT, 3),
    ],
)
def test_rungs(facts: Fingerprint, probe: Probe, seconds: float, rungs: int) -> None:
    found = plan(facts, probe, seconds)
    assert len(found.rungs) == rungs
    if rungs > 1:
        assert found.rungs[0] >= SHORTEST_RUNG and found.config.optim.schedule == "wsd"
        assert "paused" in " ".join(found.reasons)
    else:
        assert found.config.optim.schedule == "cosine"


def test_no_more_trials_than_models() -> None:
    methods = Categorical("conv_lora", "adapter", "lora", "decoder_only")
    short, night = (plan(seconds=s, spaces={"adapter": methods}) for s in (600.0, NIGHT))
    assert short.trials == 4 and len(short.rungs) == 2  # each is looked at, the best has the rest
    assert night.trials == 4
    asked = plan(seconds=NIGHT, spaces={"rank": Categorical(2, 4)}, tune=TuneSettings(num_trials=9))
    assert asked.trials == 2 and sum(asked.rungs[-1:]) * 2 <= NIGHT
    one = plan(spaces={"adapter": Categorical("lora")})
    assert one.trials == 1 and one.config.adapter.adapter == "lora" and "one model" in " ".join(one.reasons)


def test_the_plan_is_made_for_a_configuration_of_the_space() -> None:
    found = plan(spaces={"adapter": Categorical("lora", "vpt"), "image_size": Categorical(96, 128)})
    assert found.config.adapter.adapter == "lora" and found.config.model.image_size == 128


def test_in_a_short_search_a_few_are_looked_at_and_one_has_the_rest() -> None:
    asked = {"auto_tune": False, "probe": LAPTOP, "seconds": 300.0}
    found = plan(replace(FACTS, n_val=10), **asked)
    look, top = found.rungs
    assert found.trials == 2 and look == pytest.approx(25.5) and look + top == pytest.approx(255.0)
    base = RunConfig().replace(learning_rate=3e-2)  # the library's own is looked at, too
    other = make_plan(FitRequest(config=base, auto_tune=False), replace(FACTS, n_val=10), LAPTOP, 300.0)
    assert other.trials == 3 and 2 * other.rungs[0] + other.rungs[1] == pytest.approx(255.0)
    more = plan(FACTS, **asked)  # 60 validation pictures
    seconds = 60 * train_pixels(FACTS, side(more), None) * LAPTOP.predict_seconds_per_mpx
    assert more.rungs[0] == pytest.approx(6.0 * seconds) and more.rungs[0] > look
    many = replace(FACTS, n_val=300)
    slow = plan(many, **asked)
    seconds = 300 * train_pixels(many, side(slow), None) * LAPTOP.predict_seconds_per_mpx
    assert seconds > 255 / 10  # or this tests nothing
    assert slow.trials == 2 and slow.rungs == pytest.approx((255.0 / 4, 255.0 * 3 / 4))
    assert len(plan(**{**asked, "seconds": 90.0}).rungs) == 1
    assert plan(**asked, tune=TuneSettings(num_trials=4)).trials == 4
    assert len(plan(auto_tune=False, probe=GPU, seconds=3600.0).rungs) == 3  # time enough for more


def test_rungs_are_longer_where_validation_is() -> None:
    many = replace(FACTS, n_val=3000)
    found = plan(many, GPU, 3600.0)
    seconds = 3000 * train_pixels(many, side(found), None) * GPU.predict_seconds_per_mpx
    assert seconds * RUNG_VALIDATIONS > SHORTEST_RUNG  # or this tests nothing
    assert len(found.rungs) > 1 and found.rungs[0] >= RUNG_VALIDATIONS * seconds


@pytest.mark.parametrize(
    "request_",
    [
        {"hyper": {"schedule": "cosine"}},
        {"hyper": {"max_epochs": 30}},
        {"tune": TuneSettings(pruner=object())},
        {"hyper": {"adapter": "full"}},  # its states are gigabytes
        {"spaces": {"adapter": Categorical("lora", "full")}},
        {"tune": TuneSettings(num_trials=2)},  # not three: none could be left behind
    ],
)
def test_what_the_user_decided_is_not_paused(request_: dict[str, Any]) -> None:
    found = plan(probe=GPU, seconds=3600.0, **request_)
    assert found.trials >= 2 and found.rungs == (found.horizon,)


def test_a_wanted_number_of_trials_decides_their_length() -> None:
    few, many = (plan(probe=GPU, seconds=3600.0, tune=TuneSettings(num_trials=n)) for n in (9, 27))
    assert (few.trials, many.trials) == (9, 27) and len(few.rungs) == len(many.rungs) == 3
    assert few.horizon == pytest.approx(3 * many.horizon)


@pytest.mark.parametrize("facts", [FACTS, TINY_SET, HUGE])
@pytest.mark.parametrize("probe", [LAPTOP, GPU])
@pytest.mark.parametrize("seconds", [30.0, 600.0, 36000.0])
@pytest.mark.parametrize("workers", [2, 8])
def test_plans_for_several_workers_fit_into_the_time(
    facts: Fingerprint, probe: Probe, seconds: float, workers: int
) -> None:
    request = FitRequest(config=RunConfig(), tune=TuneSettings(), auto_tune=False)
    found, alone = (make_plan(request, facts, probe, seconds, n) for n in (workers, 1))
    assert 1 <= found.workers <= min(workers, found.trials)
    searching = seconds - found.finish
    assert found.horizon <= searching * (1 + 1e-9)  # one after another, a chain fits
    work = chain_cost(len(found.rungs)) * found.horizon * found.trials
    assert work <= workers * searching * (1 + 1e-9) + 1e-6
    assert found.trials >= alone.trials or found.horizon >= alone.horizon
    assert found.workers == 1 or any("side by side" in line for line in found.reasons)
    assert alone.workers == 1 and not any("side by side" in line for line in alone.reasons)


def test_eight_workers_try_more() -> None:
    request = FitRequest(config=RunConfig())
    one, eight = (make_plan(request, FACTS, GPU, 8 * 3600.0, n) for n in (1, 8))
    assert eight.trials > one.trials and eight.workers == 8
    assert eight.rungs[-1] >= one.rungs[-1]


def test_crops_are_laid_around_classes_where_one_is_rare_and_crops_are_small() -> None:
    large = replace(FACTS, height=3000, width=4000, rarest=0.002)
    assert misses_classes(large, 1024, 448) and misses_classes(large, 1024, (320, 448))
    assert not misses_classes(replace(large, rarest=0.02), 1024, 448)
    assert not misses_classes(large, 1024, None) and not misses_classes(large, 512, 448)
    found = plan(large, GPU, 3600.0)
    assert found.config.optim.class_crops == CLASS_CROPS
    assert any("crops around a class: the rarest has 0.20%" in reason for reason in found.reasons)
    assert plan(replace(FACTS, rarest=0.002), GPU).config.optim.class_crops == 0.0  # crops show nearly all
    assert plan(HUGE, GPU).config.optim.class_crops == 0.0  # nothing is rare
    assert plan(large, GPU, hyper={"class_crops": 0.0}).config.optim.class_crops == 0.0


@pytest.mark.parametrize(
    ("problem_type", "hyper", "told"),
    [
        ("binary", {}, ["loss 'structure': a foreground, with weight on its borders"]),
        ("multiclass", {}, ["loss 'ce_dice': 2 classes"]),
        ("binary", {"head": "mask_classification"}, ["loss: each true mask is matched"]),
        ("binary", {"loss": "cl_dice"}, []),
        ("multiclass", {"head": "mask_classification", "loss": "focal"}, []),
    ],
)
def test_the_loss_is_the_problems_and_said(problem_type: str, hyper: dict[str, str], told: list[str]) -> None:
    found = plan(replace(FACTS, problem_type=problem_type), hyper=hyper)
    lines = [line for line in found.reasons if line.startswith("loss")]
    assert len(lines) == len(told) and all(map(str.startswith, lines, told))


@pytest.mark.parametrize(
    "space",
    [{"loss": Categorical("ce_dice", "focal")}, {"head": Categorical("semantic", "mask_classification")}],
)
def test_where_trials_differ_in_their_loss_nothing_is_said(space: dict[str, Categorical]) -> None:
    found = plan(spaces=space, tune=TuneSettings())
    assert not any(line.startswith("loss") for line in found.reasons)
