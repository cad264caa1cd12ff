"""From facts to a plan: a pure function of the data's fingerprint, a probe and the limit."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from semseg_automl.core.config import ImageSize, RunConfig
from semseg_automl.losses.registry import DEFAULT_LOSS
from semseg_automl.search.allotment import (
    looks,
    may_pause,
    most_trials,
    number_of_trials,
    numbers_of_looks,
    plan_rungs,
    why_no_search,
)
from semseg_automl.search.configurations import moved_inside
from semseg_automl.search.request import FitRequest
from semseg_automl.search.rungs import chain_cost
from semseg_automl.search.space import Space, default_space

STRIDE = 32
MIN_SIDE, MAX_SIDE = 384, 1024
"""Long sides between which pictures are resized as a rule."""
LEAST_SIDE, LEAST_SAMPLES = 128, 300
"""Below ``MIN_SIDE`` only where the time would not even hold so many samples."""
UPSCALE = 1.5
"""Pictures are enlarged up to this factor: SAM's features were learned on 1024-pixel pictures."""
THIN = 0.02
"""Thickness (as a share of the long side) below which a class is thin."""
WHOLE_SIDE, WHOLE_UPSCALE = 512, 1.25
"""Largest long side, and largest enlargement, where nothing is thin."""
MAX_CROP, MIN_CROP = 448, 320
"""Sides of the training crops where pictures are larger; the encoder takes any size at prediction. Where
the time is short crops shrink before pictures do: thin things vanish from a smaller picture."""
WANTED_SAMPLES, THIN_SAMPLES = 1500, 1000
"""Pictures (or, where things are thin, crops) that a decent training sees; sizes shrink until the time limit
holds them. Thin things are worth fewer but larger ones: with about 1000 samples, camvid's validation
pictures are segmented better at 704 pixels in crops than at 480 whole (one run each)."""
SEARCH_SAMPLES = 6000
"""Pictures that each trial of a search sees; below two such trials, the default is trained well."""
LIGHT_EPOCHS = 60
"""Below so many epochs flips are augmentation enough: stronger changes cost more fit than they gain in
variety (leaf_disease, 12 epochs, two splits of its training tables: IoU 0.569 against 0.554), and flips leave
features that can be kept."""
FRAMES = 0.5
"""Of pictures that show less than so many scenes each (frames of videos) a model sees scenes more often than
epochs tell, and flips are not enough: on unseen videos of polyp_clinicdb (variety 0.27, 8 epochs) "medium" is
ahead of "light" by 0.028 +- 0.024 on the videos tested on and by 0.032 +- 0.023 on those validated on (six
folds, ``benchmarks/quality/recipes.md``)."""
SMALL_SHARE, SMALL_STEPS, SMALL_SIDE = 0.6, 50, 192
"""Where things are thick and the clock ends the training, this share of it sees smaller pictures (of at
least so many pixels a side), if so many steps would fit at full size alone: the change must not come in the
last moment. leaf_disease, half of the usual time, two splits of its training tables: IoU 0.572 and 0.680
with it, 0.526 and 0.614 without."""
LARGE, FINE = 2 * MAX_SIDE, 4.0
"""Pictures with a longer side are cut into windows of ``MAX_SIDE``, at their own size, where their thinnest
class would be thinner than so many pixels if they were resized to that. The cracks of crack_forest are 2.7
pixels thick, and 3.9 once the plan for thin things has enlarged them."""
RARE, CLASS_CROPS = 0.01, 1 / 3
"""Where a class has less than this share of the pixels, and a crop shows less than half of a picture, so many
of the crops are laid around a class (the share that Isensee et al., nnU-Net, 2021, use)."""
RUNG_WARMUP = 0.15
"""Share of the first rung over which learning rates rise."""
DEFAULT_SEARCH_SECONDS = 3600.0
"""Time limit of a search that was given none."""
_TRAINING_SHARE = 0.85  # of the time, in training steps
MAX_STEPS = 100_000
"""Steps of a training that the clock ends; a bound only in case the clock never does."""


@dataclass(frozen=True, kw_only=True)
class Fingerprint:
    """Facts about the tables. ``height`` and ``width`` are medians; ``foreground`` is the share of
    labelled pixels that are not of the most frequent class, ``thinness`` the thickness of the
    thinnest class as a share of the long side (``data.fingerprint.thinnest_class``), ``rarest`` the share
    of labelled pixels of the rarest class that occurs. ``cut_from``: median (H, W) of the pictures of which
    these are windows, None where they are whole. ``variety``: scenes over training pictures, 0..1
    (``data.near_duplicates``). ``problem_type``: "binary" or "multiclass"."""

    n_train: int
    n_val: int
    height: int
    width: int
    n_classes: int
    foreground: float
    thinness: float
    rarest: float = 1.0
    cut_from: tuple[int, int] | None = None
    variety: float = 1.0
    problem_type: str = "multiclass"


@dataclass(frozen=True, kw_only=True)
class Probe:
    """What one real step cost: seconds per picture and megapixel (forward and backward; forward
    alone) in the chosen precision, and Lightning's name of that precision."""

    train_seconds_per_mpx: float
    predict_seconds_per_mpx: float
    precision: str = "32-true"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What will be done. ``trials`` = 1 means no search of ``spaces``. ``horizon`` is a trial's share of the
    clock in seconds (inf without a limit), ``rungs`` where on the way there it may be paused (seconds
    of training, the last one is ``horizon``), ``finish`` what is kept for continuing the best trial,
    ``reserve`` for storing it; ``workers`` is the number of processes that train trials side by side;
    ``max_steps`` are those of ``config``, and of every trial unless ``own_steps``: then each makes those of
    its own ``max_epochs`` and ``batch_size``; ``reasons`` says in plain words why."""

    config: RunConfig
    trials: int
    horizon: float
    max_steps: int
    precision: str
    spaces: dict[str, Space]
    reserve: float
    finish: float
    reasons: tuple[str, ...]
    rungs: tuple[float, ...] = (math.inf,)
    workers: int = 1
    own_steps: bool = False


def side_of(size: ImageSize) -> int:
    """The long side that an ``image_size`` stands for."""
    return size if isinstance(size, int) else max(size)


def natural_side(print_: Fingerprint, factor: float = 1.0) -> int:
    """Long side that suits the pictures if time is no object, MIN_SIDE to MAX_SIDE.

    Thin things (cracks, roads, poles) need pixels: enlarged by 1.5 and learned on crops. Thick ones
    (leaves, polyps) need the whole picture in view: at most ``WHOLE_SIDE``, so that a crop holds it.
    ``factor`` is the preset's; it stays within the same bounds.
    """
    long_side = max(print_.height, print_.width)
    if print_.thinness >= THIN:
        side = min(WHOLE_SIDE, max(MIN_SIDE, long_side * WHOLE_UPSCALE)) * factor
        return round(min(MAX_SIDE, max(MIN_SIDE, side)) / STRIDE) * STRIDE
    side = min(MAX_SIDE, max(MIN_SIDE, long_side * UPSCALE))
    if long_side > MAX_SIDE / UPSCALE:
        side = MAX_SIDE if long_side >= MAX_SIDE else max(long_side, int(MAX_SIDE * 0.75))
    return round(min(MAX_SIDE, max(MIN_SIDE, side * factor)) / STRIDE) * STRIDE


def finest_pixels(print_: Fingerprint) -> float:
    """Thickness of the thinnest class, in pixels, in pictures resized to the largest side of a plan."""
    return print_.thinness * min(MAX_SIDE, max(print_.height, print_.width))


def wants_windows(print_: Fingerprint) -> bool:
    """Whether training should see windows of the pictures, since resizing them would lose what is thin."""
    return max(print_.height, print_.width) > LARGE and finest_pixels(print_) < FINE


def train_crop(print_: Fingerprint, side: int, limit: int = MAX_CROP) -> tuple[int, int]:
    """Size (h, w) of the training crops: the median picture at ``side``, at most ``limit`` each way.

    One size for the whole table, in multiples of the network's stride, so that no batch is padded.
    Where things are thick, crops hold the whole picture.
    """
    scale = side / max(print_.height, print_.width)
    h, w = (math.ceil(s * scale / STRIDE) * STRIDE for s in (print_.height, print_.width))
    return (min(h, limit), min(w, limit)) if print_.thinness < THIN else (h, w)


def train_pixels(print_: Fingerprint, side: int, crop: ImageSize | None) -> float:
    """Pixels (in millions) of one training sample."""
    scale = side / max(print_.height, print_.width)
    h, w = print_.height * scale, print_.width * scale
    if crop is not None:
        h, w = (crop, crop) if isinstance(crop, int) else crop
    return math.ceil(h / STRIDE) * STRIDE * math.ceil(w / STRIDE) * STRIDE / 1e6


def choose_size(
    print_: Fingerprint, probe: Probe, seconds: float, request: FitRequest
) -> tuple[int, ImageSize | None, str]:
    """Largest side (and its crop) with which ``seconds`` hold a decent training, and why.

    A crop size that was given stays; None means whole pictures, which cost what they cost. Where picture
    sizes are searched each is seen whole: one crop would be too large for some and a small part of others.
    """
    natural = natural_side(print_, request.size_factor)
    given = "crop_size" in request.given or (
        "image_size" in request.spaces and "crop_size" not in request.spaces
    )
    asked = request.config.optim.crop_size
    whole = given and asked is None
    thin = print_.thinness < THIN and not whole
    wanted = min(THIN_SAMPLES if print_.thinness < THIN else WANTED_SAMPLES, 60 * print_.n_train)
    for side, limit in _sizes(natural, thin=thin):
        crop: ImageSize | None = None if whole else train_crop(print_, side, limit)
        cost = train_pixels(print_, side, crop) * probe.train_seconds_per_mpx
        needed = wanted if side > MIN_SIDE else min(wanted, LEAST_SAMPLES)
        if seconds / cost >= needed:
            break
    full = side == natural and limit == MAX_CROP
    why = "suits the pictures" if full else f"the largest with {needed} training samples in the time"
    crop = asked if given else crop
    return side, crop, f"image_size {side}, trained on {_crops_in_words(crop)}: {why}"


def _crops_in_words(crop: ImageSize | None) -> str:
    if crop is None:
        return "whole pictures"
    height, width = (crop, crop) if isinstance(crop, int) else crop
    return f"crops of {height} x {width}"


def _sizes(natural: int, *, thin: bool) -> Iterator[tuple[int, int]]:
    """Sides and crop limits from the best down: crops shrink first (where there are any), then sides."""
    if thin:
        yield from ((natural, limit) for limit in range(MAX_CROP, MIN_CROP, -STRIDE))
    limit = MIN_CROP if thin else MAX_CROP
    yield from ((side, limit) for side in range(natural, LEAST_SIDE - 1, -STRIDE))


def make_plan(
    request: FitRequest, print_: Fingerprint, probe: Probe, remaining: float, workers: int = 1
) -> Plan:
    """Decide sizes, steps and search from facts; no clock, no network, no randomness.

    ``workers`` processes may train trials side by side, each at the speed of the probe.
    """
    config, reasons = request.config, _windows_in_words(print_)
    side = side_of(config.model.image_size)
    if "image_size" not in request.given:
        scale = natural_side(print_, request.size_factor) / max(print_.height, print_.width)
        val = print_.n_val * print_.height * print_.width * scale**2 / 1e6 * probe.predict_seconds_per_mpx
        usable = math.inf
        if math.isfinite(remaining):
            usable = _TRAINING_SHARE * remaining - min(val, 0.1 * remaining)
        side, crop, reason = choose_size(print_, probe, usable, request)
        config = config.replace(image_size=side, crop_size=crop)
        reasons.append(reason)
    if "class_crops" not in request.given and misses_classes(print_, side, config.optim.crop_size):
        config = config.replace(class_crops=CLASS_CROPS)
        reasons.append(
            f"a third of the crops around a class: the rarest has {print_.rarest:.2%} of the pixels"
        )
    reasons += _loss_in_words(request, print_)
    full = train_pixels(print_, side, config.optim.crop_size) * probe.train_seconds_per_mpx
    if "small_share" not in request.given and starts_small(config, request, print_, remaining, full):
        config = config.replace(small_share=SMALL_SHARE)
        shrunk = f"crops shrunk to {config.optim.small_scale}"
        reasons.append(f"the first {SMALL_SHARE:.0%} of a training on {shrunk}: more steps")
    sample = full * mean_cost(config.optim.small_share, config.optim.small_scale)
    validation = print_.n_val * train_pixels(print_, side, None) * probe.predict_seconds_per_mpx
    return _schedule(request, config, print_, probe, remaining, workers, sample, validation, reasons)


def _windows_in_words(print_: Fingerprint) -> list[str]:
    """What was cut before planning, if anything was."""
    if print_.cut_from is None:
        return []
    h, w = print_.cut_from
    windows = f"windows of {print_.height} x {print_.width}"
    return [f"pictures of {h} x {w} are cut into {windows}: resized, thin things would vanish"]


def _loss_in_words(request: FitRequest, print_: Fingerprint) -> list[str]:
    """Which loss ``"auto"`` is, and why; none where a loss was given, or it or the head is searched.

    The kind of problem decides. Thinness does not: ``cl_dice`` is no better than the structure loss on the
    validation pictures of crack_forest and roads_massachusetts (``benchmarks/quality/thin.md``).
    """
    if request.config.optim.loss != "auto" or {"loss", "head"} & request.spaces.keys():
        return []
    if request.config.model.head == "mask_classification":
        return ["loss: each true mask is matched with the query that costs least"]
    binary = print_.problem_type == "binary"
    why = "a foreground, with weight on its borders" if binary else f"{print_.n_classes} classes"
    return [f"loss {DEFAULT_LOSS[print_.problem_type]!r}: {why}"]


def misses_classes(print_: Fingerprint, side: int, crop: ImageSize | None) -> bool:
    """Whether crops laid anywhere would seldom show the rarest class."""
    if crop is None or print_.rarest >= RARE:
        return False
    scale = side / max(print_.height, print_.width)
    h, w = (crop, crop) if isinstance(crop, int) else crop
    return h * w < 0.5 * print_.height * print_.width * scale**2


def starts_small(
    config: RunConfig, request: FitRequest, print_: Fingerprint, remaining: float, sample: float
) -> bool:
    """Whether trainings begin on smaller pictures; ``sample`` is a picture's seconds at full size.

    Not where things are thin (they would vanish) or steps are counted instead of seconds.
    """
    clocked = math.isfinite(remaining) and "max_epochs" not in request.given | request.spaces.keys()
    steps = _TRAINING_SHARE * remaining / (max(sample, 1e-6) * config.optim.batch_size)
    side = side_of(config.model.image_size) * config.optim.small_scale
    return clocked and print_.thinness >= THIN and steps >= SMALL_STEPS and side >= SMALL_SIDE


def mean_cost(share: float, scale: float) -> float:
    """Cost of a sample over the whole run, as a multiple of one at full size; ``share`` is of the time.

    In the time of one full step 1 / scale**2 small ones are done.
    """
    return 1.0 / (share / scale**2 + 1.0 - share)


def _schedule(
    request: FitRequest,
    config: RunConfig,
    print_: Fingerprint,
    probe: Probe,
    remaining: float,
    workers: int,
    sample: float,
    validation: float,
    reasons: list[str],
) -> Plan:
    """Number of trials and steps, given the seconds that one training sample and one validation take."""
    epochs_fixed = "max_epochs" in request.given | request.spaces.keys() or not math.isfinite(remaining)
    own = {k: v for k, v in default_space(config.adapter).items() if k not in request.given}
    spaces = dict(request.spaces) or own
    config = moved_inside(config, spaces) if request.tune is not None else config
    batch, most = config.optim.batch_size, config.optim.max_epochs * print_.n_train
    searching = (1.0 - request.finish_share) * remaining
    one = sample * (most if epochs_fixed else SEARCH_SAMPLES)
    trials = number_of_trials(request, config, spaces, workers * searching, one)
    horizon = remaining if trials == 1 else min(searching, workers * searching / trials)
    rungs: tuple[float, ...] = (horizon,)
    if trials > 1 and not epochs_fixed and may_pause(request):
        numbers, models = numbers_of_looks(request, config, spaces), most_trials(request, config, spaces)
        found = looks(request, searching, workers, one, validation, numbers)
        found = found or plan_rungs(request, trials, models, searching, workers, horizon, validation)
        (trials, rungs), horizon = found, found[1][-1]
    workers = min(workers, trials)
    reasons += _in_words(request, config, spaces, remaining, trials, workers)
    if len(rungs) > 1:
        config = _paused(config, rungs, reasons)
    max_steps = math.ceil(most / batch) if epochs_fixed else MAX_STEPS
    epochs = min(max_steps * batch, _TRAINING_SHARE * horizon / max(sample, 1e-6)) / print_.n_train
    if "augment" not in request.given and epochs < LIGHT_EPOCHS:
        config, words = _few_epochs(config, print_, epochs)
        reasons.append(words)
    return Plan(
        config=config,
        trials=trials,
        horizon=horizon,
        max_steps=max_steps,
        precision=probe.precision,
        spaces=spaces,
        reserve=1.0 if trials == 1 else 1.0 + min(2.5 * validation, 0.05 * remaining),
        finish=request.finish_share * remaining if trials > 1 and math.isfinite(remaining) else 0.0,
        reasons=tuple(reasons),
        rungs=rungs,
        workers=workers,
        own_steps=epochs_fixed and not spaces.keys().isdisjoint({"max_epochs", "batch_size"}),
    )


def _few_epochs(config: RunConfig, print_: Fingerprint, epochs: float) -> tuple[RunConfig, str]:
    """The augmentation where a model does not see each picture often, and why."""
    if print_.variety < FRAMES:
        scenes = max(1, round(print_.variety * print_.n_train))
        return config, f"augment {config.optim.augment!r}: the pictures show about {scenes} scenes"
    times = f"a model sees each picture some {max(1, round(epochs))} times"
    return config.replace(augment="light"), f"augment 'light': {times}"


def _in_words(
    request: FitRequest,
    config: RunConfig,
    spaces: dict[str, Space],
    remaining: float,
    trials: int,
    workers: int,
) -> list[str]:
    """How many models, and in how many processes."""
    if trials == 1:
        return [f"1 model: {why_no_search(request, config, spaces, remaining)}"]
    words = [f"up to {trials} trials over {', '.join(spaces)}, the default configuration first"]
    return words + ([f"{workers} processes train trials side by side"] if workers > 1 else [])


def expected_epochs(plan: Plan, print_: Fingerprint, probe: Probe) -> float:
    """Times that a training picture is seen over all trials of a plan."""
    optim = plan.config.optim
    steps = float(plan.max_steps)
    if math.isfinite(plan.horizon):
        pixels = train_pixels(print_, side_of(plan.config.model.image_size), optim.crop_size)
        pixels *= mean_cost(optim.small_share, optim.small_scale)
        seconds = pixels * probe.train_seconds_per_mpx * optim.batch_size
        steps = min(steps, _TRAINING_SHARE * plan.horizon / max(seconds, 1e-6))
    return steps * optim.batch_size / print_.n_train * plan.trials * chain_cost(len(plan.rungs))


def _paused(config: RunConfig, rungs: tuple[float, ...], reasons: list[str]) -> RunConfig:
    """The configuration of trials that are paused: at one rate until the finish.

    Where trainings begin on smaller pictures each leg does, up to ``small_share`` of its end: all that reach
    a rung were trained alike.
    """
    ends = ", ".join(f"{end:.0f}" for end in rungs)
    reasons.append(f"trials are paused after {ends} s, the best third (at least one) goes on each time")
    return config.replace(schedule="wsd", warmup=RUNG_WARMUP)
