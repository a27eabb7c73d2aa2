"""Exports networks by the binary and compares ONNX Runtime's logits with refit's.

    python tools/check_onnx.py target/release/refit            # one network of each family
    python tools/check_onnx.py target/release/refit resnet50   # these
    python tools/check_onnx.py target/release/refit --all      # every network

Weights are those of the golden files: He's amplify rounding beyond use in the deepest networks without
trained batch norms.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnxruntime as ort
from safetensors.torch import save_file

import golden_networks

TOLERANCE = 1e-4


def networks(refit):
    """What refit says of every network, by name."""
    listed = subprocess.run([refit, "models", "--json"], capture_output=True, check=True)
    return {network["name"]: network for network in json.loads(listed.stdout)}


def families(names):
    """The first of each family: names are alike up to digits and sizes."""
    first = {}
    for name in names:
        first.setdefault(re.split(r"[\d_]", name)[0], name)
    return list(first.values())


def weights(name, folder):
    file = folder / "weights.safetensors"
    if not file.exists():
        golden = next(golden for golden in golden_networks.NETWORKS if golden.name == name)
        state = golden_networks.build(golden).state_dict()
        save_file({name: tensor.contiguous() for name, tensor in state.items()}, file)
    return file


def check(refit, name, folder, more):
    """The largest difference of ONNX Runtime's logits from refit's, relative to the largest."""
    graph, images, logits = folder / "net.onnx", folder / "x.npy", folder / "y.npy"
    model = [name, "--weights", weights(name, folder)]
    subprocess.run(
        [refit, "export", *model, "--to", "onnx", "--out", graph, *more], check=True, capture_output=True
    )
    session = ort.InferenceSession(graph)
    [taken] = session.get_inputs()
    x = np.random.default_rng(0).normal(size=(2, *taken.shape[1:])).astype(np.float32)
    np.save(images, x)
    subprocess.run(
        [refit, "run", *model, "--input", images, "--output", logits], check=True, capture_output=True
    )
    wanted = np.load(logits)
    [given] = session.run(None, {taken.name: x})
    return np.abs(given - wanted).max() / np.abs(wanted).max(), graph.stat().st_size / 1e6


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("refit")
    parser.add_argument("networks", nargs="*")
    parser.add_argument("--all", action="store_true")
    arguments = parser.parse_args()
    names = networks(arguments.refit)
    chosen = arguments.networks or (list(names) if arguments.all else families(names))
    failed = 0
    print(f"{'network':24} {'folded':>9} {'kept':>9} {'MB':>7}")
    with tempfile.TemporaryDirectory() as folder:
        for name in chosen:
            for file in Path(folder).iterdir():
                file.unlink()
            try:
                folded, size = check(arguments.refit, name, Path(folder), [])
                kept, _ = check(arguments.refit, name, Path(folder), ["--keep-batch-norms"])
            except subprocess.CalledProcessError as error:
                print(f"{name:24} {error.stderr.decode().strip().splitlines()[0]}", flush=True)
                failed += 1
                continue
            wrong = max(folded, kept) > TOLERANCE
            failed += wrong
            print(f"{name:24} {folded:9.1e} {kept:9.1e} {size:7.1f}{'  WRONG' if wrong else ''}", flush=True)
    sys.exit(int(failed > 0))


if __name__ == "__main__":
    main()
