"""Masks from a file of ``export_onnx`` without torch: python predict_onnx.py model.onnx masks/ *.jpg"""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image, ImageOps


def bilinear(x, size):  # (K, h, w) -> (K, *size), half-pixel centres
    for axis, new in ((1, size[0]), (2, size[1])):
        old = x.shape[axis]
        place = np.clip((np.arange(new) + 0.5) * old / new - 0.5, 0, old - 1)
        below = place.astype(int)
        weight = (place - below).astype(np.float32).reshape((-1, 1) if axis == 1 else -1)
        x = x.take(below, axis) * (1 - weight) + x.take(np.minimum(below + 1, old - 1), axis) * weight
    return x


def read(path, facts):  # (C, H, W) uint8
    if len(facts["mean"]) > 3:
        import tifffile  # a TIFF with the channels last

        pixels = tifffile.imread(path)
    else:
        image = ImageOps.exif_transpose(Image.open(path))
        deep = image.mode in ("I", "F") or image.mode.startswith("I;16")
        pixels = np.asarray(image if deep else image.convert("RGB"))
    if pixels.dtype != np.uint8:
        low, high = map(np.float32, (facts["scaling"] or {"low": 0, "high": 65535}).values())
        values = (pixels.astype(np.float32) - low) * (255 / (high - low))
        pixels = np.rint(np.clip(values, 0, 255)).astype(np.uint8)
    return np.stack([pixels] * 3) if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def probabilities(session, pixels, facts):  # (C, H, W) -> (K, H, W), K = 2 for binary problems
    (height, width), box, step = pixels.shape[1:], facts["image_size"], facts["multiple"]
    sides = (box, box) if isinstance(box, int) else box
    scale = min(sides[0] / height, sides[1] / width)
    h, w = (max(1, min(s, round(n * scale))) for s, n in zip(sides, (height, width), strict=True))
    padded = [-(-n // step) * step for n in ((h, w) if isinstance(box, int) else box)]
    images = np.zeros((1, len(pixels), *padded), np.float32)
    for plane, mean, std, image in zip(pixels, facts["mean"], facts["std"], images[0], strict=True):
        seen = Image.fromarray(plane).resize((w, h), Image.Resampling.BILINEAR)
        image[:h, :w] = (np.asarray(seen, np.float32) - mean) / std
    logits = session.run(["logits"], {"images": images})[0][0]
    logits = bilinear(bilinear(logits, padded)[:, :h, :w], (height, width))
    logits = np.concatenate([np.zeros_like(logits), logits]) if len(logits) == 1 else logits
    odds = np.exp(logits - logits.max(0))
    return odds / odds.sum(0)


def predict(session, path):  # (H, W) raw values, or (H, W, 3) colours
    facts = {k: json.loads(v) for k, v in session.get_modelmeta().custom_metadata_map.items()}
    pixels = read(path, facts)
    found = probabilities(session, pixels, facts)
    if facts["tta"]:  # as the model's preset has it: mean with the mirrored picture's
        found = (found + probabilities(session, pixels[..., ::-1], facts)[..., ::-1]) / 2
    indices = found.argmax(0) if facts["threshold"] is None else (found[1] >= facts["threshold"]) * 1
    values = np.array(facts["values"])
    return values.astype(np.uint8 if values.max() < 256 else np.uint16)[indices]


if __name__ == "__main__":
    model = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
    Path(sys.argv[2]).mkdir(parents=True, exist_ok=True)
    for picture in map(Path, sys.argv[3:]):
        Image.fromarray(predict(model, picture)).save(Path(sys.argv[2]) / f"{picture.stem}.png")
