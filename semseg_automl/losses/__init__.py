"""Losses on logits and class indices: pure functions and one registry."""
