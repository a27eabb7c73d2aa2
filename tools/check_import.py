"""Imports networks that PyTorch or Keras exported, and compares refit's logits with ONNX Runtime's.

    python tools/check_import.py target/release/refit torchvision:resnet18 timm:ghostnet_100 ...
    python tools/check_import.py target/release/refit --exporter dynamo torchvision:convnext_tiny
    python tools/check_import.py target/release/refit keras:MobileNetV3Small ...

Weights are random, batch norms' statistics too. The graph is run as it is written, without ONNX
Runtime's optimizer. Differences are relative to the largest logit. Networks of Keras need the packages
tensorflow and tf2onnx.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnxruntime as ort

TOLERANCE = 1e-4


def torch_network(source, name):
    import torch

    torch.manual_seed(0)
    if source == "timm":
        import timm

        net = timm.create_model(name)
        size = net.default_cfg["input_size"][1]
    else:
        import torchvision

        more = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
        net = torchvision.models.get_model(name, **more)
        size = 299 if name == "inception_v3" else 224
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.uniform_(-0.1, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    return net.eval(), size


def from_torch(source, name, exporter, path):
    import torch

    net, size = torch_network(source, name)
    images = torch.randn(2, 3, size, size)
    if exporter == "dynamo":
        torch.onnx.export(
            net, (images,), path, dynamo=True, external_data=False, verbose=False,
            dynamic_shapes=({0: torch.export.Dim("batch")},),
        )
    else:
        torch.onnx.export(
            net, (images,), path, dynamo=False, opset_version=int(exporter),
            input_names=["x"], output_names=["y"], dynamic_axes={"x": {0: "n"}, "y": {0: "n"}},
        )


def from_keras(name, path):
    import keras
    import tensorflow as tf
    import tf2onnx

    keras.utils.set_random_seed(0)
    net = getattr(keras.applications, name)(weights=None)
    for layer in net.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.moving_mean.assign(tf.random.uniform(layer.moving_mean.shape, -0.1, 0.1))
            layer.moving_variance.assign(tf.random.uniform(layer.moving_variance.shape, 0.5, 1.5))
    shape = (None, *(size or 224 for size in net.input_shape[1:]))
    call = tf.function(lambda images: net(images, training=False))
    signature = [tf.TensorSpec(shape, tf.float32, name="images")]
    tf2onnx.convert.from_function(call, signature, opset=15, output_path=str(path))


def compare(refit, path, folder):
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(path, options)
    [taken] = session.get_inputs()
    last = taken.shape[-1] == 3
    size = taken.shape[1 if last else 2]
    x = np.random.default_rng(0).normal(size=(2, 3, size, size)).astype(np.float32)
    wanted = session.run(None, {taken.name: np.ascontiguousarray(x.transpose(0, 2, 3, 1)) if last else x})[0]
    model, images, logits = folder / "m.safetensors", folder / "x.npy", folder / "y.npy"
    said = subprocess.run([refit, "import", path, "--out", model], check=True, capture_output=True, text=True)
    np.save(images, x)
    subprocess.run([refit, "run", model, "--input", images, "--output", logits], check=True, capture_output=True, text=True)
    given = np.load(logits)
    if "softmax" in said.stderr:
        given = np.exp(given - given.max(1, keepdims=True))
        given /= given.sum(1, keepdims=True)
    return np.abs(given - wanted).max() / np.abs(wanted).max()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("refit")
    parser.add_argument("networks", nargs="+", metavar="SOURCE:NAME")
    parser.add_argument("--exporter", default="17", help="dynamo, or an opset of the older exporter")
    arguments = parser.parse_args()
    failed = 0
    for network in arguments.networks:
        source, name = network.split(":")
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "net.onnx"
            try:
                if source == "keras":
                    from_keras(name, path)
                else:
                    from_torch(source, name, arguments.exporter, path)
            except Exception as error:
                print(f"{network:36} not exported: {str(error).splitlines()[0][:100]}", flush=True)
                continue
            try:
                apart = compare(arguments.refit, path, Path(folder))
            except ValueError as error:
                print(f"{network:36} not compared: {error}", flush=True)
                continue
            except subprocess.CalledProcessError as error:
                print(f"{network:36} {error.stderr.strip().splitlines()[-2:]}", flush=True)
                failed += 1
                continue
            wrong = not apart <= TOLERANCE
            failed += wrong
            print(f"{network:36} {apart:.1e}{'  WRONG' if wrong else ''}", flush=True)
    sys.exit(int(failed > 0))


if __name__ == "__main__":
    main()
