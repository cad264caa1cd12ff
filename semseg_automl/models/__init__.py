"""Encoders, decoder, checkpoints: the only room that knows segment_anything and timm."""
