"""What holds for every plan, and for the clock under every course of time."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from semseg_automl.core.config import RunConfig
from semseg_automl.core.errors import ConfigError
from semseg_automl.search.budget import Budget
from semseg_automl.search.planner import Fingerprint, Probe, make_plan
from semseg_automl.search.request import FitRequest
from semseg_automl.search.rungs import chain_cost

FACTS = st.builds(
    Fingerprint,
    n_train=st.integers(1, 10**6),
    n_val=st.integers(1, 10**4),
    height=st.integers(1, 20_000),
    width=st.integers(1, 20_000),
    n_classes=st.integers(2, 300),
    foreground=st.floats(0, 1),
    thinness=st.floats(0, 1),
)
PROBES = st.builds(
    Probe,
    train_seconds_per_mpx=st.floats(1e-5, 1e3),
    predict_seconds_per_mpx=st.floats(1e-6, 1e3),
    precision=st.sampled_from(["32-true", "bf16-mixed"]),
)


@given(
    facts=FACTS,
    probe=PROBES,
    seconds=st.floats(0, 10**7) | st.just(math.inf),
    epochs=st.none() | st.integers(1, 99),
)
def test_every_plan_can_be_carried_out(
    facts: Fingerprint, probe: Probe, seconds: float, epochs: int | None
) -> None:
    fixed = {} if epochs is None else {"max_epochs": epochs}
    request = FitRequest(config=RunConfig().replace(**fixed), given=frozenset(fixed))
    plan = make_plan(request, facts, probe, seconds)
    assert plan == make_plan(request, facts, probe, seconds)  # no clock, no chance
    side = plan.config.model.image_size
    crop = plan.config.optim.crop_size
    assert isinstance(side, int) and isinstance(crop, tuple)
    assert 32 <= side <= 1024 and side % 32 == 0 and all(c >= 32 and c % 32 == 0 for c in crop)
    assert plan.max_steps >= 1 and plan.trials >= 1 and plan.precision == probe.precision
    assert (plan.trials == 1 or plan.spaces) and all(plan.reasons)
    if epochs is not None:
        assert plan.config.optim.max_epochs == epochs and "max_epochs" not in plan.spaces
    if math.isfinite(seconds):
        whole = chain_cost(len(plan.rungs)) * plan.trials * plan.rungs[-1]  # fewer reach each further rung
        assert whole + plan.finish <= seconds * (1 + 1e-9) + 1e-6


@given(facts=FACTS, probe=PROBES, seconds=st.floats(1, 10**6))
def test_more_time_never_plans_smaller_pictures(facts: Fingerprint, probe: Probe, seconds: float) -> None:
    request = FitRequest(config=RunConfig())
    sides = [make_plan(request, facts, probe, s).config.model.image_size for s in (seconds, 4 * seconds)]
    assert sides[0] <= sides[1]  # type: ignore[operator]


@given(
    limit=st.none() | st.floats(1e-3, 10**6),
    course=st.lists(st.floats(0, 10**5), max_size=20),
    seconds=st.floats(0, 10**6),
    reserve=st.floats(0, 100),
)
def test_the_clock_never_gives_time_back(
    limit: float | None, course: list[float], seconds: float, reserve: float
) -> None:
    now = [100.0]
    budget = Budget(limit, now=lambda: now[0])
    left, before, passed = budget.slice(seconds, reserve), math.inf, 0.0
    for step in course:
        now[0] += step
        passed = now[0] - 100.0
        assert budget.elapsed() == passed
        assert budget.remaining() == (math.inf if limit is None else max(0.0, limit - passed))
        assert budget.remaining() <= before
        before = budget.remaining()
        expected = min(seconds, math.inf if limit is None else limit - reserve) - passed
        assert left() == pytest.approx(expected, abs=1e-6)


@given(st.one_of(st.floats(max_value=0), st.just(math.nan), st.text(), st.booleans()))
def test_a_limit_that_is_no_time_is_refused(limit: object) -> None:
    with pytest.raises(ConfigError, match="positive number of seconds"):
        Budget(limit)  # type: ignore[arg-type]
