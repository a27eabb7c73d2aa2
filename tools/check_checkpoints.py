"""Checks that checkpoints go from PyTorch to refit and back, for networks of torchvision and timm.

    python tools/check_checkpoints.py target/release/refit            # one network of each family
    python tools/check_checkpoints.py target/release/refit resnet50   # these
    python tools/check_checkpoints.py target/release/refit --all      # every network

PyTorch saves each network in every container; `refit run FILE` recognizes the network, loads it
strictly, and has to give PyTorch's logits. What `refit export --to safetensors` writes is loaded by
`load_state_dict(strict=True)` and has to give refit's. Differences are relative to the largest logit.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

import golden_networks
from check_onnx import families, networks

TOLERANCE = 1e-4


def prefixed(state, prefix):
    return {prefix + name: tensor for name, tensor in state.items()}


def cast(state, dtype):
    return {name: t.to(dtype) if t.is_floating_point() else t for name, t in state.items()}


def versioned(state, net):
    """With the versions of modules, which torchvision's MNASNet asks for and no file of tensors has."""
    state = OrderedDict(state)
    state._metadata = net.state_dict()._metadata
    return state


def sharded(state, folder):
    """Two files and an index, as the hub keeps large networks."""
    names = sorted(state)
    shards = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for file, part in shards.items():
        save_file({name: state[name].contiguous() for name in part}, folder / file)
    index = folder / "model.safetensors.index.json"
    weight_map = {name: file for file, part in shards.items() for name in part}
    index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return index


CONTAINERS = {
    "safetensors": lambda state, path: save_file({k: t.contiguous() for k, t in state.items()}, path),
    "zip": torch.save,
    "legacy": lambda state, path: torch.save(state, path, _use_new_zipfile_serialization=False),
    "state_dict": lambda state, path: torch.save({"state_dict": prefixed(state, "module."), "epoch": 3}, path),
    "model": lambda state, path: torch.save({"model": prefixed(state, "_orig_mod.")}, path),
    "model_state_dict": lambda state, path: torch.save({"model_state_dict": state}, path),
    "ema": lambda state, path: torch.save({"ema": state}, path),
    "half": lambda state, path: torch.save(cast(state, torch.float16), path),
    "bfloat16": lambda state, path: torch.save(cast(state, torch.bfloat16), path),
    "sharded": None,
}


class Check:
    def __init__(self, refit, described, folder):
        self.refit, self.name, self.folder = refit, described["name"], folder
        golden = next(golden for golden in golden_networks.NETWORKS if golden.name == self.name)
        self.net = golden_networks.build(golden)
        size, channels = described["input"]["size"], described["channels"]
        self.images = golden_networks.images(1, size, size, channels=channels)
        np.save(folder / "x.npy", self.images.numpy().astype(np.float32))

    def run(self, *arguments):
        output = self.folder / "y.npy"
        command = [self.refit, "run", *arguments, "--input", self.folder / "x.npy", "--output", output]
        subprocess.run(command, check=True, capture_output=True)
        return np.load(output)

    def wanted(self, net):
        with torch.no_grad():
            return net(self.images.float()).numpy()

    def to_refit(self, container):
        """The difference of refit's logits from PyTorch's, for a checkpoint that PyTorch saved."""
        state, net = self.net.state_dict(), self.net
        if container in ("half", "bfloat16"):
            net = golden_networks.copy.deepcopy(net)
            rounded = cast(state, getattr(torch, {"half": "float16"}.get(container, container)))
            net.load_state_dict(versioned(rounded, net))
        if container == "sharded":
            path = sharded(state, self.folder)
        else:
            suffix = "safetensors" if container == "safetensors" else "pth"
            path = self.folder / f"{container}.{suffix}"
            CONTAINERS[container](state, path)
        # Which of the LeNets it is does not show in weights.
        given = [self.name, "--weights", path] if self.name.startswith("lenet5") else [path]
        return difference(self.run(*given), self.wanted(net))

    def from_refit(self):
        """The same for a checkpoint that refit wrote and PyTorch loads strictly."""
        path, given = self.folder / "written.safetensors", self.folder / "given.safetensors"
        CONTAINERS["safetensors"](self.net.state_dict(), given)
        model = [self.name, "--weights", given]
        command = [self.refit, "export", *model, "--to", "safetensors", "--out", path]
        subprocess.run(command, check=True, capture_output=True)
        for tensor in self.net.state_dict().values():
            tensor.zero_()
        self.net.load_state_dict(versioned(load_file(path), self.net), strict=True)
        return difference(self.run(*model), self.wanted(self.net))


def difference(given, wanted):
    return np.abs(given - wanted).max() / np.abs(wanted).max()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("refit")
    parser.add_argument("networks", nargs="*")
    parser.add_argument("--all", action="store_true")
    parser.add_argument("--only", choices=[*CONTAINERS, "from refit"], help="this way alone")
    arguments = parser.parse_args()
    names = networks(arguments.refit)
    chosen = arguments.networks or (list(names) if arguments.all else families(names))
    failed = 0
    for name in chosen:
        said = []
        with tempfile.TemporaryDirectory() as folder:
            check = Check(arguments.refit, names[name], Path(folder))
            checks = {container: lambda c=container: check.to_refit(c) for container in CONTAINERS}
            checks["from refit"] = check.from_refit
            for what, measure in checks.items():
                if arguments.only not in (None, what):
                    continue
                try:
                    apart = measure()
                    wrong = not apart <= TOLERANCE
                    said.append(f"{what} {apart:.0e}{' WRONG' if wrong else ''}")
                except (subprocess.CalledProcessError, RuntimeError) as error:
                    wrong = True
                    text = getattr(error, "stderr", None) or str(error).encode()
                    said.append(f"{what} FAILED: {text.decode().strip().splitlines()[0]}")
                failed += wrong
        print(f"{name:24} {', '.join(said)}", flush=True)
    sys.exit(int(failed > 0))


if __name__ == "__main__":
    main()
