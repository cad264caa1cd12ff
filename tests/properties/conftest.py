"""Few examples by default, always the same; ``--hypothesis-profile=thorough`` tries many."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

_SLOW_MACHINES = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
settings.register_profile(
    "few", max_examples=25, deadline=None, derandomize=True, suppress_health_check=_SLOW_MACHINES
)
settings.register_profile("thorough", max_examples=500, deadline=None, suppress_health_check=_SLOW_MACHINES)
settings.load_profile("few")
