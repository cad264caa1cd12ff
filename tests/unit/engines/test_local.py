"""The engine that runs a search in the calling process."""

from __future__ import annotations

from semseg_automl.engines.local import ENGINES, LocalEngine
from tests.contracts.engine_contract import EngineContract


class TestLocalEngine(EngineContract):
    def make(self) -> LocalEngine:
        engine = ENGINES["local"]
        assert isinstance(engine, LocalEngine)
        return engine
