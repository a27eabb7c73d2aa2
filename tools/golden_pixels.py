#!/usr/bin/env python3
"""Writes what torchvision (on PIL images) makes of synthetic images, for refit-data's golden tests.

    python tools/golden_pixels.py        (needs torchvision and Pillow; the tests do not)

The input pixels follow a formula that crates/refit-data/tests/golden.rs repeats; the results go to
crates/refit-data/tests/golden/: one manifest.json, and for each case the eight-bit RGB pixels.
"""

import json
from pathlib import Path

import numpy as np
import PIL
import torchvision
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as F

OUT = Path(__file__).parent.parent / "crates/refit-data/tests/golden"
MODES = {"bicubic": InterpolationMode.BICUBIC, "bilinear": InterpolationMode.BILINEAR}


def synthetic(width, height, seed):
    """Gradients, hard edges and noise, in 32-bit integers so that any language gives the same."""
    y, x, c = np.meshgrid(np.arange(height), np.arange(width), np.arange(3), indexing="ij")
    y, x, c = (a.astype(np.uint64) for a in (y, x, c))
    h = (x * 73856093 ^ y * 19349663 ^ c * 83492791 ^ np.uint64(seed * 2654435761)) & 0xFFFFFFFF
    h = (h * 2654435761) & 0xFFFFFFFF
    h = ((h ^ (h >> np.uint64(15))) * 2246822519) & 0xFFFFFFFF
    noise = h >> np.uint64(24)
    gradient = ((x * (c + 1) + y * (3 - c)) * 255) // (3 * (width + height))
    edges = np.where((x // 7 + y // 5 + c) % 2 == 0, 255, 0).astype(np.uint64)
    value = np.where((x // 32 + y // 32) % 3 == 0, edges, (gradient * 5 + noise * 3) // 8)
    return Image.fromarray(value.astype(np.uint8))


def preprocess(size, resize, interpolation):
    return {"size": size, "resize": resize, "interpolation": interpolation, "mean": [0.5] * 3, "std": [0.5] * 3}


cases = []


def case(kind, image, result, **settings):
    name = f"{len(cases):02}-{kind}.rgb"
    pixels = np.asarray(result.convert("RGB"))
    (OUT / name).write_bytes(pixels.tobytes())
    (width, height), seed = image
    cases.append({"file": name, "kind": kind, "width": width, "height": height, "seed": seed, **settings})


OUT.mkdir(parents=True, exist_ok=True)
for old in OUT.glob("*.rgb"):
    old.unlink()

# Landscape, portrait, odd, square, long; shrinking, growing and staying; crops that must be padded;
# offsets that end in a half.
for (width, height), to, size, modes in [
    ((500, 375), 256, 224, ["bicubic"]),
    ((375, 500), 64, 56, MODES),
    ((333, 517), 72, 65, MODES),
    ((1001, 701), 97, 80, MODES),
    ((40, 30), 64, 56, MODES),
    ((31, 47), 63, 60, MODES),
    ((100, 100), 100, 100, ["bicubic"]),
    ((60, 60), 61, 60, MODES),
    ((57, 201), 48, 61, MODES),
    ((640, 41), 33, 32, MODES),
    ((3, 300), 16, 12, MODES),
    ((1, 1), 8, 8, MODES),
]:
    for mode in modes:
        seed = len(cases)
        image = synthetic(width, height, seed)
        result = F.center_crop(F.resize(image, to, MODES[mode]), size)
        case("preprocess", ((width, height), seed), result, preprocess=preprocess(size, {"shorter-side": {"to": to}}, mode))

for (width, height), size in [((300, 180), 64), ((45, 91), 70), ((64, 64), 64)]:
    for mode in MODES:
        seed = len(cases)
        result = F.resize(synthetic(width, height, seed), [size, size], MODES[mode])
        case("preprocess", ((width, height), seed), result, preprocess=preprocess(size, "squash", mode))

for (width, height), (left, top, w, h), size in [((300, 180), (10, 20, 150, 100), 64), ((90, 120), (33, 41, 30, 50), 64), ((80, 80), (0, 0, 80, 80), 48)]:
    for mode in MODES:
        seed = len(cases)
        result = F.resized_crop(synthetic(width, height, seed), top, left, h, w, [size, size], MODES[mode])
        case("crop", ((width, height), seed), result, box=[left, top, w, h], preprocess=preprocess(size, "squash", mode))

for kind, change, factors in [
    ("brightness", F.adjust_brightness, [0.0, 0.63, 1.0, 1.37]),
    ("contrast", F.adjust_contrast, [0.0, 0.63, 1.0, 1.37]),
    ("saturation", F.adjust_saturation, [0.0, 0.63, 1.0, 1.37]),
    ("hue", F.adjust_hue, [-0.5, -0.13, 0.0, 0.02, 0.41]),
]:
    for factor in factors:
        seed = len(cases)
        case(kind, ((67, 53), seed), change(synthetic(67, 53, seed), factor), factor=factor)

manifest = {"torchvision": torchvision.__version__, "pillow": PIL.__version__, "cases": cases}
(OUT / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")
print(f"{len(cases)} cases, {sum(f.stat().st_size for f in OUT.iterdir())} bytes")
