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


def probabilities(session, image, facts):  # (K, H, W), K = 2 for binary problems
    (width, height), box, step = image.size, facts["image_size"], facts["multiple"]
    sides = (box, box) if isinstance(box, int) else box
    scale = min(sides[0] / height, sides[1] / width)
    h, w = (max(1, min(s, round(n * scale))) for s, n in zip(sides, (height, width), strict=True))
    padded = [-(-n // step) * step for n in ((h, w) if isinstance(box, int) else box)]
    pixels = np.asarray(image.resize((w, h), Image.Resampling.BILINEAR), np.float32)
    images = np.zeros((1, 3, *padded), np.float32)
    images[0, :, :h, :w] = ((pixels - facts["mean"]) / facts["std"]).transpose(2, 0, 1)
    logits = session.run(["logits"], {"images": images})[0][0]
    logits = bilinear(bilinear(logits, padded)[:, :h, :w], (height, width))
    logits = np.concatenate([np.zeros_like(logits), logits]) if len(logits) == 1 else logits
    odds = np.exp(logits - logits.max(0))
    return odds / odds.sum(0)


def predict(session, path):  # (H, W) raw values, or (H, W, 3) colours
    facts = {k: json.loads(v) for k, v in session.get_modelmeta().custom_metadata_map.items()}
    image = ImageOps.exif_transpose(Image.open(path))
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):  # more than 8 bits
        low, high = (facts["scaling"] or {"low": 0, "high": 65535}).values()
        values = (np.asarray(image, np.float32) - low) * (255 / (high - low))
        image = Image.fromarray(np.rint(np.clip(values, 0, 255)).astype(np.uint8))
    image = image.convert("RGB")
    found = probabilities(session, image, facts)
    if facts["tta"]:  # as the model's preset has it: mean with the mirrored picture's
        found = (found + probabilities(session, ImageOps.mirror(image), facts)[..., ::-1]) / 2
    indices = found.argmax(0) if facts["threshold"] is None else (found[1] >= facts["threshold"]) * 1
    values = np.array(facts["values"])
    return values.astype(np.uint8 if values.max() < 256 else np.uint16)[indices]


if __name__ == "__main__":
    model = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
    Path(sys.argv[2]).mkdir(parents=True, exist_ok=True)
    for picture in map(Path, sys.argv[3:]):
        Image.fromarray(predict(model, picture)).save(Path(sys.argv[2]) / f"{picture.stem}.png")
