"""Encoders, decoder, checkpoints: the only room that knows timm."""
