"""Exports networks by the binary and compares ONNX Runtime's logits with refit's.

    python tools/check_onnx.py target/release/refit            # one network of each family
    python tools/check_onnx.py target/release/refit resnet50   # these
    python tools/check_onnx.py target/release/refit --all      # every network

Weights and images are those of the golden files, by their formula: with He's weights, or images of normal
noise, some of the deepest networks amplify rounding beyond use (PyTorch's own f32 is then off by 3e-4).
It needs numpy, onnxruntime and safetensors, no PyTorch.
"""

import argparse
import json
import math
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnxruntime as ort
from safetensors import safe_open
from safetensors.numpy import save_file

import formula

TOLERANCE = 1e-4
GOLDEN = Path(__file__).parent.parent / "crates" / "refit-net" / "tests" / "golden"


def networks(refit):
    """What refit says of every network that has a golden file, by name."""
    listed = subprocess.run([refit, "models", "--json"], capture_output=True, check=True)
    networks = {network["name"]: network for network in json.loads(listed.stdout)}
    return {name: of for name, of in networks.items() if (GOLDEN / f"{name}.safetensors").exists()}


def families(networks):
    """The smallest network of each paper and kind of layer names."""
    smallest = {}
    for name, network in sorted(networks.items(), key=lambda item: item[1]["parameters"]):
        smallest.setdefault((network["paper"], network["names_as"]), name)
    return list(smallest.values())


def weights(name, folder):
    file = folder / "weights.safetensors"
    if not file.exists():
        with safe_open(GOLDEN / f"{name}.safetensors", "numpy") as golden:
            facts = golden.metadata()
        gain, bias = float(facts["gain"]), json.loads(facts["bias"])
        state = json.loads(facts["state"])
        save_file({key: formula.parameter(key, shape, gain, bias) for key, shape in state}, file)
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
    shape = (2, *taken.shape[1:])
    x = (2 * formula.uniform("input", math.prod(shape)) - 1).astype(np.float32).reshape(shape)
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
    known = networks(arguments.refit)
    chosen = arguments.networks or (list(known) if arguments.all else families(known))
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
            wrong = not (folded <= TOLERANCE and kept <= TOLERANCE)
            failed += wrong
            print(f"{name:24} {folded:9.1e} {kept:9.1e} {size:7.1f}{'  WRONG' if wrong else ''}", flush=True)
    sys.exit(int(failed > 0))


if __name__ == "__main__":
    main()
