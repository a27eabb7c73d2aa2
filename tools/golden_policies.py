#!/usr/bin/env python3
"""Writes what the operations of torchvision's TrivialAugmentWide and RandAugment make of synthetic images.

    python tools/golden_policies.py        (needs torchvision and Pillow; the tests do not)

The operations are exact, so a checksum of the pixels says all: crates/refit-data/tests/golden/policies.json
holds one (FNV-1a, 32 bits) for every policy, operation, strength and sign, and for bilinear rotations.
"""

import json
from pathlib import Path

import numpy as np
import PIL
import PIL.Image
import torchvision
from torchvision.transforms import InterpolationMode, RandAugment, TrivialAugmentWide
from torchvision.transforms import functional as F
from torchvision.transforms.autoaugment import _apply_op

OUT = Path(__file__).parent.parent / "crates/refit-data/tests/golden/policies.json"
FILL = (124, 116, 104)
IMAGES = [(64, 64, 3), (47, 31, 4)]


def synthetic(width, height, seed):
    """As in golden_pixels.py."""
    y, x, c = np.meshgrid(np.arange(height), np.arange(width), np.arange(3), indexing="ij")
    y, x, c = (a.astype(np.uint64) for a in (y, x, c))
    h = (x * 73856093 ^ y * 19349663 ^ c * 83492791 ^ np.uint64(seed * 2654435761)) & 0xFFFFFFFF
    h = (h * 2654435761) & 0xFFFFFFFF
    h = ((h ^ (h >> np.uint64(15))) * 2246822519) & 0xFFFFFFFF
    noise = h >> np.uint64(24)
    gradient = ((x * (c + 1) + y * (3 - c)) * 255) // (3 * (width + height))
    edges = np.where((x // 7 + y // 5 + c) % 2 == 0, 255, 0).astype(np.uint64)
    value = np.where((x // 32 + y // 32) % 3 == 0, edges, (gradient * 5 + noise * 3) // 8)
    return PIL.Image.fromarray(value.astype(np.uint8))


def checksum(image):
    value = 0x811C9DC5
    for byte in np.asarray(image.convert("RGB")).tobytes():
        value = ((value ^ byte) * 0x01000193) & 0xFFFFFFFF
    return value


cases = []
for width, height, seed in IMAGES:
    image = synthetic(width, height, seed)
    spaces = {
        "trivial": TrivialAugmentWide()._augmentation_space(31),
        "rand": RandAugment()._augmentation_space(31, (height, width)),
    }
    for policy, space in spaces.items():
        for index, (name, (strengths, signed)) in enumerate(space.items()):
            strengths = [float(s) for s in strengths] if strengths.ndim else [0.0]
            signs = [1, -1] if signed else [1]
            sums = [
                checksum(_apply_op(image, name, sign * s, InterpolationMode.NEAREST, list(FILL)))
                for s in strengths
                for sign in signs
            ]
            cases.append({"image": [width, height, seed], "policy": policy, "operation": index, "sums": sums})
    degrees = [-170.0, -90.0, -33.3, -1.5, 0.25, 12.0, 45.0, 90.0, 179.0]
    sums = [checksum(F.rotate(image, d, InterpolationMode.BILINEAR, fill=list(FILL))) for d in degrees]
    cases.append({"image": [width, height, seed], "policy": "rotation", "operation": 0, "degrees": degrees, "sums": sums})

text = ",\n".join(json.dumps(case, separators=(",", ":")) for case in cases)
versions = f'"torchvision":"{torchvision.__version__}","pillow":"{PIL.__version__}"'
OUT.write_text(f'{{{versions},"fill":{list(FILL)},"cases":[\n{text}\n]}}\n')
print(f"{len(cases)} cases, {OUT.stat().st_size} bytes")
