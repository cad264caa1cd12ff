"""Frozen dataclasses, errors, hardware facts and logging: standard library only."""
