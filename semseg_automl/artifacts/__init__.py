"""Saved models: safetensors and JSON, nothing executable. No lightning, no optuna, no pandas."""
