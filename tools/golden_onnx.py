"""Makes small ONNX files as PyTorch's two exporters and TensorFlow's converter write them, with the
logits that ONNX Runtime gives.

    python tools/golden_onnx.py crates/refit-net/tests/golden/onnx
"""

import sys
import warnings
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import torch
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import save_file
from torch import nn
from torch.nn import functional as F

warnings.filterwarnings("ignore")


class Excitation(nn.Module):
    """Squeeze-and-excitation by linear layers, as timm's older networks have it."""

    def __init__(self, channels):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(channels, 4), nn.Linear(4, channels)

    def forward(self, x):
        y = F.relu(self.fc1(x.mean((2, 3))))
        return x * torch.sigmoid(self.fc2(y)).view(x.size(0), x.size(1), 1, 1)


class Branches(nn.Module):
    """A branch, a depthwise part, squeeze-and-excitation, and most activations."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.SiLU())
        self.depthwise = nn.Sequential(
            nn.Conv2d(8, 8, 5, padding=2, groups=8, bias=False), nn.BatchNorm2d(8), nn.ReLU6()
        )
        self.squeeze = Excitation(8)
        self.left = nn.Sequential(nn.AvgPool2d(3, 1, 1), nn.Conv2d(8, 4, 1), nn.Hardswish())
        self.right = nn.Sequential(nn.Conv2d(8, 4, 3, padding=1), nn.GELU(), nn.GELU(approximate="tanh"))
        self.pool = nn.MaxPool2d(3, 2, ceil_mode=True)
        self.fc1, self.fc2 = nn.Linear(8 * 4 * 4, 8), nn.Linear(8, 5)

    def forward(self, x):
        x = self.stem(x)
        x = x + self.squeeze(self.depthwise(x))
        x = torch.cat([self.left(x), self.right(x)], 1)
        x = torch.flatten(self.pool(x), 1)
        return self.fc2(torch.tanh(self.fc1(x)))


class Shuffled(nn.Module):
    """Channels split, dealt out, and normalized by pixel, as ShuffleNet and ConvNeXt do."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 4, 4)
        self.branch = nn.Sequential(nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1))
        self.norm = nn.LayerNorm(8, eps=1e-6)
        self.expand, self.reduce = nn.Linear(8, 16), nn.Linear(16, 8)
        self.layer_scale = nn.Parameter(torch.full((8, 1, 1), 0.5))
        self.head_norm, self.head = nn.LayerNorm(8), nn.Linear(8, 5)

    def forward(self, x):
        x = self.stem(x)
        a, b = x.chunk(2, dim=1)
        x = torch.cat([a, self.branch(b)], 1)
        n, c, h, w = x.shape
        x = x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)
        y = self.norm(x.permute(0, 2, 3, 1))
        y = self.reduce(F.gelu(self.expand(y))).permute(0, 3, 1, 2)
        x = x + self.layer_scale * y
        return self.head(self.head_norm(x.mean((-2, -1))))


def randomized(net):
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-0.3, 0.3)
            module.running_var.uniform_(0.5, 1.5)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.3, 0.3)
    return net.eval()


def from_torch(net, path):
    images = torch.randn(2, 3, 16, 16)
    axes = {"x": {0: "n"}, "y": {0: "n"}}
    for opset in (11, 17):
        torch.onnx.export(
            net, (images,), f"{path}.script{opset}.onnx", dynamo=False, opset_version=opset,
            input_names=["x"], output_names=["y"], dynamic_axes=axes,
        )
    torch.onnx.export(
        net, (images,), f"{path}.dynamo.onnx", dynamo=True, external_data=False, verbose=False,
        dynamic_shapes=({0: torch.export.Dim("batch")},),
    )


def tensorflow(path):
    """What tf2onnx makes of a Keras network: channels last, "same" padding, norms spelled out."""
    rng = np.random.default_rng(0)
    weights, nodes = [], []

    def constant(name, values, dtype=np.float32):
        weights.append(numpy_helper.from_array(np.asarray(values, dtype), name))
        return name

    def node(op, inputs, output, **attributes):
        nodes.append(helper.make_node(op, inputs, [output], name=f"model/net/{output}/{op}", **attributes))
        return output

    def normal(name, *shape):
        return constant(name, rng.normal(size=shape) * 0.3)

    x = node("Mul", ["images", constant("rescale", 1 / 127.5)], "scaled")
    x = node("Sub", [x, constant("offset", 1.0)], "centred")
    x = node("Transpose", [x], "turned", perm=[0, 3, 1, 2])
    x = node("Conv", [x, normal("w1", 8, 3, 3, 3)], "conv1", strides=[2, 2], auto_pad="SAME_UPPER")
    x = node("Transpose", [x], "last1", perm=[0, 2, 3, 1])
    x = node("Mul", [x, constant("bn_scale", rng.uniform(0.5, 1.5, 8))], "bn_mul")
    x = node("Add", [x, normal("bn_shift", 8)], "bn_add")
    y = node("Add", [x, constant("three", 3.0)], "hard_add")
    y = node("Clip", [y], "hard_clip", min=0.0, max=6.0)
    y = node("Mul", [y, constant("sixth", 1 / 6)], "hard_sigmoid")
    x = node("Mul", [x, y], "hard_swish")
    g = node("ReduceMean", [x], "squeezed", axes=[1, 2], keepdims=0)
    s = node("Shape", [g], "shape")
    s = node("Slice", [s], "images_count", axes=[0], starts=[0], ends=[1])
    s = node("Concat", [s, constant("rest", [1, 1, 8], np.int64)], "gate_shape", axis=0)
    g = node("Reshape", [g, s], "gate_map")
    g = node("Transpose", [g], "gate_first", perm=[0, 3, 1, 2])
    g = node("Conv", [g, normal("w2", 8, 8, 1, 1), normal("b2", 8)], "gate_conv")
    g = node("Sigmoid", [g], "gate")
    g = node("Transpose", [g], "gate_last", perm=[0, 2, 3, 1])
    x = node("Mul", [x, g], "gated")
    x = node("Pad", [x], "padded", pads=[0, 0, 0, 0, 0, 1, 1, 0], mode="constant")
    x = node("Transpose", [x], "turned2", perm=[0, 3, 1, 2])
    x = node("MaxPool", [x], "pool", kernel_shape=[3, 3], strides=[2, 2])
    x = node("Transpose", [x], "last2", perm=[0, 2, 3, 1])
    x = node("Reshape", [x, constant("flat", [-1, 128], np.int64)], "flatten")
    x = node("MatMul", [x, normal("w3", 128, 5)], "dense_product")
    x = node("Add", [x, normal("b3", 5)], "dense")
    x = node("Softmax", [x], "probabilities", axis=1)
    graph = helper.make_graph(
        nodes, "keras",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["n", 16, 16, 3])],
        [helper.make_tensor_value_info(x, TensorProto.FLOAT, ["n", 5])],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 9)], ir_version=6)
    onnx.checker.check_model(model)
    onnx.save(model, f"{path}.onnx")


def expected(path):
    """Images, NCHW, and what comes out for them; logarithms where a softmax is the end."""
    rng = np.random.default_rng(1)
    images = rng.uniform(-1, 1, (3, 3, 16, 16)).astype(np.float32)
    # As the file says: optimized, a pad of zeros before a maximum becomes one of the lowest number.
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(path, options)
    [taken] = session.get_inputs()
    given = images if taken.shape[1] == 3 else np.ascontiguousarray(images.transpose(0, 2, 3, 1))
    [result] = session.run(None, {taken.name: given})
    if path.stem == "tensorflow":
        result = np.log(result)
    save_file({"images": images, "logits": result}, f"{path.with_suffix('')}.safetensors")


def main(folder):
    torch.manual_seed(0)
    from_torch(randomized(Branches()), folder / "branches")
    from_torch(randomized(Shuffled()), folder / "shuffled")
    tensorflow(folder / "tensorflow")
    for path in sorted(folder.glob("*.onnx")):
        expected(path)
        print(path.name, path.stat().st_size)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
