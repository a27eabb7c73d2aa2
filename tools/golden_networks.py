"""Makes the golden files that let refit's networks be compared with PyTorch's without PyTorch.

    golden_networks.py OUTDIR [NAME...] [--search]

Nothing but results is stored: parameters and input follow from names and shapes, by
formula.py. All of it is computed in float64 and rounded once to float32. The reference is
PyTorch in float64 on those rounded parameters; `f32_error` in the metadata is PyTorch's own error
in float32, relative to the largest value of the tensor.
"""

import argparse
import copy
import itertools
import json
import math
import warnings
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import timm
import torch
import torchvision
from torch import nn

import formula
from convert_lite0 import write_safetensors

FORMULA = (
    "u(name, i) = (splitmix64(fnv1a64(name) + (i+1)*0x9E3779B97F4A7C15) >> 40) / 2^24, splitmix64 "
    "being the finalizer alone; in f64, rounded once to f32: "
    "input[i] = 2*u(input, i) - 1; "
    "*.running_mean: 0.2*(2u-1); *.running_var: 0.5+u; *.bias: bias[0] + bias[1]*(2u-1); "
    "other 1-D and 3-D: 0.8+0.4u; "
    "2-D and 4-D: s*(2*u(name, i/2) - 1)*sqrt(gain/fan_in), s = 1 for even i and -1 for odd, "
    "fan_in = elements / shape[0]; flat index i in row-major order; `input`, `bias` and `gain` are in "
    "this metadata"
)
INNER_VALUES = 4096
GRADIENT_VALUES = 2048
LABELS = [3, 7]
MOMENTUM = 0.1
BIAS = (0.0, 0.2)


@dataclass
class Step:
    """A step whose gradients are kept. Within a rounding error of a kink (ReLU at 0, ReLU6 at 0 and
    6, a tie in max pooling) two correct programs may take different sides and differ by percents,
    so the input is one that no activation brings near a kink. `find_input` looks for it. With 33
    ReLU6 layers on batch statistics there is none to be found unless biases keep most of the
    activations between the kinks."""

    mode: str
    input: str
    bias: tuple = BIAS


@dataclass
class Golden:
    """What is made for one network. `gain` scales the weights: more, and float32 noise is amplified
    past use in 152 layers; less, and all inputs give the same logits."""

    name: str
    published: str
    gain: float
    inner: str
    batch: int
    odd_sizes: list = field(default_factory=list)
    inner_values: int = INNER_VALUES
    steps: list = field(default_factory=list)
    gradients: list = field(default_factory=list)
    statistics: list = field(default_factory=list)


def lite(number, **more):
    return Golden(f"efficientnet_lite{number}", f"tf_efficientnet_lite{number}", 4.0, "blocks.3.0", **more)


def resnet(depth, **more):
    return Golden(f"resnet{depth}", f"resnet{depth}", 3.0, "layer3.0", **more)


ODD_SIZES = [(193, 193), (161, 225)]


def family(inner, *names, odd=(), gain=6.0):
    """Rows of one family: the first at odd sizes too."""
    first = {"batch": 2, "odd_sizes": list(odd)} if odd else {"batch": 1}
    return [
        Golden(name, name, gain, inner, inner_values=1024, **(first if name == names[0] else {"batch": 1}))
        for name in names
    ]


class LeNet5(nn.Module):
    """LeCun et al. 1998, with a linear output."""

    SEEN = [
        (0, 1, 2), (1, 2, 3), (2, 3, 4), (3, 4, 5), (0, 4, 5), (0, 1, 5), (0, 1, 2, 3), (1, 2, 3, 4),
        (2, 3, 4, 5), (0, 3, 4, 5), (0, 1, 4, 5), (0, 1, 2, 5), (0, 1, 3, 4), (1, 2, 4, 5), (0, 2, 3, 5),
        (0, 1, 2, 3, 4, 5),
    ]

    def __init__(self, padding):
        super().__init__()
        self.C1 = nn.Conv2d(1, 6, 5, padding=padding)
        self.S2 = nn.Conv2d(6, 6, 1, groups=6)
        self.C3 = nn.ModuleList(nn.Conv2d(len(maps), 1, 5) for maps in self.SEEN)
        self.S4 = nn.Conv2d(16, 16, 1, groups=16)
        self.C5 = nn.Conv2d(16, 120, 5)
        self.F6 = nn.Linear(120, 84)
        self.OUTPUT = nn.Linear(84, 10)

    def forward(self, x):
        squash = lambda x: 1.7159 * torch.tanh(x * (2 / 3))
        half = lambda x: nn.functional.avg_pool2d(x, 2)
        y = squash(self.S2(half(squash(self.C1(x)))))
        y = torch.cat([conv(y[:, maps]) for conv, maps in zip(self.C3, self.SEEN)], 1)
        self.joined = y
        y = squash(self.S4(half(squash(y))))
        y = squash(self.C5(y)).mean((2, 3))
        return self.OUTPUT(squash(self.F6(y)))


class AlexNet2012(nn.Sequential):
    """Krizhevsky, Sutskever and Hinton 2012, by Caffe's names."""

    def __init__(self):
        super().__init__()
        norm = lambda: nn.LocalResponseNorm(5, alpha=5e-4, beta=0.75, k=2.0)
        layers = {
            "conv1": nn.Conv2d(3, 96, 11, 4), "relu1": nn.ReLU(), "norm1": norm(), "pool1": nn.MaxPool2d(3, 2),
            "conv2": nn.Conv2d(96, 256, 5, padding=2, groups=2), "relu2": nn.ReLU(), "norm2": norm(),
            "pool2": nn.MaxPool2d(3, 2), "conv3": nn.Conv2d(256, 384, 3, padding=1), "relu3": nn.ReLU(),
            "conv4": nn.Conv2d(384, 384, 3, padding=1, groups=2), "relu4": nn.ReLU(),
            "conv5": nn.Conv2d(384, 256, 3, padding=1, groups=2), "relu5": nn.ReLU(), "pool5": nn.MaxPool2d(3, 2),
            "flatten": nn.Flatten(), "fc6": nn.Linear(9216, 4096), "relu6": nn.ReLU(), "drop6": nn.Dropout(),
            "fc7": nn.Linear(4096, 4096), "relu7": nn.ReLU(), "drop7": nn.Dropout(), "fc8": nn.Linear(4096, 1000),
        }
        for name, layer in layers.items():
            self.add_module(name, layer)


class NASNetAMobile(nn.Module):
    """NASNet-A (4 @ 1056) of timm's cells; cells are numbered as in the large network."""

    def __init__(self):
        super().__init__()
        cells, c, self.cells = timm.models.nasnet, 44, 4
        self.conv0 = timm.layers.ConvNormAct(
            3, 32, kernel_size=3, padding=0, stride=2, norm_layer=lambda n, **_: nn.BatchNorm2d(n, eps=1e-3), apply_act=False
        )
        self.cell_stem_0 = cells.CellStem0(32, num_channels=c // 4, pad_type="same")
        self.cell_stem_1 = cells.CellStem1(32, num_channels=c // 2, pad_type="same")
        before, now = c, 2 * c
        for stage, reduce in enumerate((None, cells.ReductionCell0, cells.ReductionCell1)):
            wide = c << stage
            if reduce:
                self.add_module(f"reduction_cell_{stage - 1}", reduce(before, wide, now, wide, "same"))
                now = 4 * wide
            for i in range(self.cells):
                kind, left = (cells.FirstCell, wide // 2) if i == 0 else (cells.NormalCell, wide)
                self.add_module(f"cell_{6 * stage + i}", kind(before, left, now, wide, "same"))
                before, now = now, 6 * wide
        self.last_linear = nn.Linear(24 * c, 1000)

    def forward(self, x):
        x = self.conv0(x)
        before = self.cell_stem_0(x)
        now = self.cell_stem_1(x, before)
        for stage in range(3):
            if stage:
                now = getattr(self, f"reduction_cell_{stage - 1}")(now, before)
            for i in range(self.cells):
                before, now = now, getattr(self, f"cell_{6 * stage + i}")(now, before)
        return self.last_linear(torch.relu(now).mean((2, 3)))


# Networks that neither torchvision nor timm has, and the size, resize and interpolation that they are given.
OWN = {
    "lenet5": (lambda: LeNet5(0), 32, 32, "bilinear"),
    "lenet5_28": (lambda: LeNet5(2), 28, 28, "bilinear"),
    "alexnet_2012": (AlexNet2012, 227, 256, "bilinear"),
    "nasnetamobile": (NASNetAMobile, 224, 256, "bicubic"),
}
TIMM = ("tf_", "inception_v4", "inception_resnet_v2", "nasnetalarge", "pnasnet5large")

NETWORKS = [
    lite(
        0,
        batch=2,
        odd_sizes=ODD_SIZES,
        steps=[Step("eval", "input.133"), Step("train", "input.247", (3.0, 3.0))],
        gradients=[
            "conv_stem.weight",
            "blocks.3.1.conv_pw.weight",
            "blocks.3.1.conv_dw.weight",
            "blocks.3.1.bn2.weight",
            "blocks.3.1.bn2.bias",
            "classifier.weight",
            "classifier.bias",
        ],
        statistics=["bn1", "bn2"],
    ),
    lite(1, batch=2),
    lite(2, batch=2),
    lite(3, batch=1),
    lite(4, batch=1),
    resnet(
        18,
        batch=2,
        odd_sizes=ODD_SIZES,
        steps=[Step("eval", "input.7"), Step("train", "input.4")],
        gradients=[
            "conv1.weight",
            "layer2.0.conv2.weight",
            "layer2.0.downsample.0.weight",
            "layer2.0.bn1.weight",
            "layer2.0.bn1.bias",
            "fc.weight",
            "fc.bias",
        ],
        statistics=["bn1", "layer4.1.bn2"],
    ),
    resnet(34, batch=2),
    resnet(50, batch=2),
    resnet(101, batch=1),
    resnet(152, batch=1),
    *family("C3", "lenet5", odd=[(40, 36)], gain=3.0),
    *family("C3", "lenet5_28", gain=3.0),
    *family("features.8", "alexnet", odd=ODD_SIZES),
    *family("norm2", "alexnet_2012"),
    *family("features.10", "vgg11", "vgg13", "vgg16", "vgg19", odd=ODD_SIZES),
    *family("features.10", "vgg11_bn", "vgg13_bn", "vgg16_bn", "vgg19_bn"),
    *family("inception4c", "googlenet", odd=ODD_SIZES),
    *family("Mixed_6c", "inception_v3", odd=[(193, 161)]),
    *family("features.12", "inception_v4", odd=[(193, 161)]),
    *family("repeat_1.3", "inception_resnet_v2"),
    *family("layer3.0", "resnext50_32x4d", "resnext101_32x8d", odd=[(161, 225)], gain=3.0),
    *family("layer3.0", "wide_resnet50_2", "wide_resnet101_2", gain=3.0),
    *family("cell_7", "nasnetalarge", odd=[(161, 226)], gain=3.0),
    *family("cell_7", "nasnetamobile"),
    *family("cell_5", "pnasnet5large", odd=[(161, 226)], gain=3.0),
    *family("features.7", "squeezenet1_0", "squeezenet1_1", odd=ODD_SIZES),
    *family("features.transition2", "densenet121", "densenet161", "densenet169", "densenet201", odd=ODD_SIZES),
    *family("features.8", "mobilenet_v2", odd=ODD_SIZES),
    *family("features.6", "mobilenet_v3_small", "mobilenet_v3_large", odd=ODD_SIZES),
    *family("stage3.2", *(f"shufflenet_v2_x{w}" for w in ("0_5", "1_0", "1_5", "2_0")), odd=ODD_SIZES),
    *family("layers.11.1", *(f"mnasnet{w}" for w in ("0_5", "0_75", "1_0", "1_3")), odd=ODD_SIZES),
    *family("features.5.0", *(f"efficientnet_b{i}" for i in range(7)), odd=ODD_SIZES),
    *family("features.5.0", "efficientnet_b7", gain=4.0),
    *family("features.5.0", "efficientnet_v2_s", "efficientnet_v2_m", gain=2.0),
    *family("trunk_output.block2", *(f"regnet_y_{f}" for f in ("400mf", "800mf", "1_6gf", "3_2gf", "8gf")), odd=ODD_SIZES),
    *family("trunk_output.block2", *(f"regnet_x_{f}" for f in ("400mf", "800mf", "1_6gf", "3_2gf", "8gf")), gain=3.0),
    *family("features.3.1", *(f"convnext_{s}" for s in ("tiny", "small", "base", "large")), odd=ODD_SIZES),
]


def parameter(name, shape, gain, bias):
    return torch.from_numpy(formula.parameter(name, tuple(shape), gain, bias))


def images(n, h, w, name="input", channels=3):
    x = 2 * formula.uniform(name, n * channels * h * w) - 1
    return torch.from_numpy(x.astype(np.float32)).reshape(n, channels, h, w)


def build(golden, bias=BIAS):
    if golden.name in OWN:
        net = OWN[golden.name][0]()
    elif golden.published.startswith("tf_"):
        net = timm.create_model(golden.published, drop_rate=0.0, drop_path_rate=0.0)
    elif golden.published.startswith(TIMM):
        net = timm.create_model(golden.published, drop_rate=0.0)
    elif golden.name in ("googlenet", "inception_v3"):
        net = torchvision.models.get_model(golden.published, init_weights=False)
    else:
        net = torchvision.models.get_model(golden.published)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = MOMENTUM
    state = net.state_dict()
    state.update({k: parameter(k, t.shape, golden.gain, bias) for k, t in kept(net).items()})
    net.load_state_dict(state)
    return net.eval()


def kept(net):
    return {k: t for k, t in net.state_dict().items() if not k.endswith("num_batches_tracked")}


def facts(golden, net):
    """Preprocessing of the published weights, and the size of the network."""
    if golden.name in OWN:
        _, size, resize, interpolation = OWN[golden.name]
        mean = std = crop_pct = None
    elif golden.published.startswith(TIMM):
        cfg = net.pretrained_cfg
        size, interpolation = cfg["input_size"][-1], cfg["interpolation"]
        resize, mean, std = math.floor(size / cfg["crop_pct"]), cfg["mean"], cfg["std"]
        crop_pct = cfg["crop_pct"]
    else:
        weights = torchvision.models.get_model_weights(golden.published).IMAGENET1K_V1
        preset = weights.transforms()
        size, resize, interpolation = preset.crop_size[0], preset.resize_size[0], preset.interpolation.value
        mean, std, crop_pct = preset.mean, preset.std, size / resize
    macs = multiply_adds(net, size)
    norm = next((m for m in net.modules() if isinstance(m, nn.BatchNorm2d)), None)
    return {
        "parameters": sum(p.numel() for p in net.parameters()),
        "multiply_adds": macs,
        "input_size": size,
        "resize": resize,
        "crop_pct": crop_pct,
        "interpolation": interpolation,
        "mean": mean and list(mean),
        "std": std and list(std),
        "batch_norm_eps": norm and norm.eps,
    }


def colours(net):
    """Channels of the images that a network takes."""
    return next(m for m in net.modules() if isinstance(m, nn.Conv2d)).in_channels


def multiply_adds(net, size):
    """Of convolutions and linear layers, for one image."""
    total, hooks = 0, []

    def count(module, _, output):
        nonlocal total
        total += output.numel() * (module.weight.numel() // module.weight.shape[0])

    for module in net.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            hooks.append(module.register_forward_hook(count))
    with torch.no_grad():
        net(images(1, size, size, channels=colours(net)))
    for hook in hooks:
        hook.remove()
    return total


class Results:
    """Float64 references, each kept in part if large, with PyTorch's own error in float32."""

    def __init__(self):
        self.tensors, self.shapes, self.strides, self.errors = {}, {}, {}, {}

    def add(self, name, reference, single, most):
        largest = reference.abs().max().clamp_min(1e-300)
        self.errors[name] = float(f"{((reference - single).abs().max() / largest).item():.1e}")
        self.shapes[name] = list(reference.shape)
        stride = coprime_stride(reference.numel(), most)
        self.strides[name] = stride
        kept = reference if stride == 1 else reference.flatten()[::stride]
        self.tensors[name] = kept.detach().float().numpy()

    def metadata(self):
        return {
            "shapes": json.dumps(self.shapes),
            "strides": json.dumps(self.strides),
            "f32_error": json.dumps(self.errors),
        }


def coprime_stride(elements, most):
    """The smallest stride that keeps at most `most`, coprime so that it meets every row and column."""
    return next(s for s in itertools.count(-(-elements // most)) if math.gcd(s, elements) == 1)


def common_metadata(golden, bias, source):
    return {
        "network": golden.name,
        "published_name": golden.published,
        "formula": FORMULA,
        "gain": json.dumps(golden.gain),
        "bias": json.dumps(bias),
        "input": source,
        "reference": "PyTorch, float64, on the float32 parameters and input; rounded to float32",
        "versions": f"torch {torch.__version__.split('+')[0]}, "
        f"torchvision {torchvision.__version__.split('+')[0]}, timm {timm.__version__}",
    }


@torch.no_grad()
def forward(net, x, inner):
    seen = {}
    if isinstance(net, LeNet5):
        return net(x), net.joined
    hook = net.get_submodule(inner).register_forward_hook(lambda m, i, o: seen.update(y=o.clone()))
    logits = net(x)
    hook.remove()
    return logits, seen["y"]


def forward_file(golden, net, path):
    about, double, results = facts(golden, net), copy.deepcopy(net).double(), Results()
    size = about["input_size"]
    for h, w in [(size, size), *golden.odd_sizes]:
        x = images(golden.batch, h, w, channels=colours(net))
        (logits, inner), (logits32, inner32) = forward(double, x.double(), golden.inner), forward(net, x, golden.inner)
        results.add(f"{h}x{w}.logits", logits, logits32, logits.numel())
        results.add(f"{h}x{w}.{golden.inner}", inner, inner32, golden.inner_values)
        if golden.batch > 1:
            apart = (logits[0] - logits[1]).norm() / logits[0].norm()
            print(f"  {h}x{w}: deviation {logits.std():.3f}, items apart by {apart:.2f}")
        else:
            print(f"  {h}x{w}: deviation {logits.std():.3f}")
    metadata = {
        "batch": str(golden.batch),
        "facts": json.dumps(about),
        "inner": golden.inner,
        "state": json.dumps([[k, list(t.shape)] for k, t in kept(net).items()]),
    }
    write_safetensors(path, results.tensors, common_metadata(golden, BIAS, "input") | metadata | results.metadata())
    print(f"  {json.dumps(about)}\n  f32 error {json.dumps(results.errors)}")


def backward(net, x, mode):
    """Loss, logits and gradients of one step; running statistics move in mode `train`."""
    net.train(mode == "train")
    net.zero_grad()
    logits = net(x)
    loss = nn.functional.cross_entropy(logits, torch.tensor(LABELS))
    loss.backward()
    net.eval()
    return loss.detach().reshape(1), logits.detach(), {k: p.grad for k, p in net.named_parameters()}


def activations(net, x, mode):
    """What enters each layer that has a kink."""
    seen, net = [], copy.deepcopy(net)
    for module in net.modules():
        if isinstance(module, (nn.ReLU, nn.ReLU6, nn.MaxPool2d)):
            module.register_forward_pre_hook(lambda m, inputs: seen.append((m, inputs[0].clone())))
    with torch.no_grad():
        net.train(mode == "train")(x)
    return seen


def distance_to_kink(layer, x):
    if isinstance(layer, nn.MaxPool2d):
        x = nn.functional.pad(x, [layer.padding] * 4).flatten(0, 1)[:, None]
        first, second = nn.functional.unfold(x, layer.kernel_size, stride=layer.stride).topk(2, 1).values.unbind(1)
        return (first - second)[first > 0].min()
    distance = x.abs().min()
    return torch.minimum(distance, (x - 6).abs().min()) if isinstance(layer, nn.ReLU6) else distance


def kink_margin(net, x, mode):
    """The least distance of an activation to a kink, in units of its layer's largest f32 error."""
    single = activations(net, x, mode)
    double = activations(copy.deepcopy(net).double(), x.double(), mode)
    return min(
        (distance_to_kink(layer, a64) / (a64 - a32).abs().max()).item()
        for (layer, a64), (_, a32) in zip(double, single)
    )


def find_input(net, mode, size, margin=2.0):
    """The first of `input.0`, `input.1`, ... that keeps clear of kinks."""
    names = (f"input.{i}" for i in itertools.count())
    return next(n for n in names if kink_margin(net, images(len(LABELS), size, size, n), mode) > margin)


def gradient_file(golden, step, path, search, size=64):
    net, results = build(golden, step.bias), Results()
    source = find_input(net, step.mode, size) if search else step.input
    x = images(len(LABELS), size, size, source)
    margin = kink_margin(net, x, step.mode)
    print(f"  {step.mode}: {source}, {margin:.2f} f32 errors from a kink")
    if margin < 1:
        raise SystemExit(f"{golden.name} {step.mode}: `{step.input}` comes near a kink here; run with --search")
    single, double = copy.deepcopy(net), copy.deepcopy(net).double()
    reference, own = backward(double, x.double(), step.mode), backward(single, x, step.mode)
    results.add("loss", reference[0], own[0], 1)
    results.add("logits", reference[1], own[1], reference[1].numel())
    for name in golden.gradients:
        results.add(f"gradient.{name}", reference[2][name], own[2][name], GRADIENT_VALUES)
    norms = [torch.stack([g.double().norm() for g in r[2].values()]) for r in (reference, own)]
    results.add("gradient_norms", *norms, len(norms[0]))
    vanishing = [k for k, n in zip(reference[2], norms[0]) if n < 1e-9 * norms[0].max()]
    if step.mode == "train":
        for name in (f"{layer}.{part}" for layer in golden.statistics for part in ("running_mean", "running_var")):
            results.add(f"updated.{name}", double.state_dict()[name], single.state_dict()[name], GRADIENT_VALUES)
    metadata = {
        "mode": step.mode,
        "input_shape": json.dumps(list(x.shape)),
        "labels": json.dumps(LABELS),
        "loss": "mean cross entropy; dropout off",
        "batch_norm_momentum": str(MOMENTUM),
        "gradient_norms": json.dumps(list(reference[2])),
        "vanishing": json.dumps(vanishing),
        "kink_margin": f"{margin:.2f}",
    }
    write_safetensors(path, results.tensors, common_metadata(golden, step.bias, source) | metadata | results.metadata())
    print(f"    loss {reference[0].item():.4f}, gradient norms {norms[0].min():.2e} to {norms[0].max():.2e}")
    print(f"    f32 error {json.dumps(results.errors)}\n    vanishing {vanishing}")


class Payload:
    """Runs a shell command when unpickled by a reader that executes pickles."""

    def __reduce__(self):
        import os

        return os.system, ("touch pwned",)


def tiny_state():
    """Eighths between -15/8 and 15/8: exact in float16 and bfloat16."""
    shapes = {"conv.weight": (4, 3, 3, 3), "conv.bias": (4,), "bn.running_var": (4,), "fc.weight": (5, 4)}
    return {
        name: ((torch.arange(math.prod(shape)) * 7 + len(name)) % 31 - 15).div(8).reshape(shape)
        for name, shape in shapes.items()
    }


def container_files(folder):
    folder.mkdir(parents=True, exist_ok=True)
    state = tiny_state()
    write_safetensors(folder / "expected.safetensors", {k: t.numpy() for k, t in state.items()}, {})
    counted = state | {"bn.num_batches_tracked": torch.tensor(17)}
    parameters = {k: nn.Parameter(t) for k, t in state.items()}
    module = nn.Sequential()
    module.add_module("conv", nn.Conv2d(3, 4, 3))
    module.load_state_dict({k: state[k] for k in ("conv.weight", "conv.bias")})
    wide = torch.zeros(2, 20)
    wide[1, ::2][:4] = state["conv.bias"]
    strided = state | {
        "conv.weight": state["conv.weight"].permute(3, 1, 0, 2).contiguous().permute(2, 1, 3, 0),
        "fc.weight": state["fc.weight"].t().contiguous().t(),
        "conv.bias": wide[1, ::2][:4],
    }
    assert all(torch.equal(strided[k], state[k]) for k in state) and not strided["conv.weight"].is_contiguous()
    training = {
        "epoch": 3,
        "arch": "tiny",
        "best_acc1": 71.5,
        "state_dict": {f"module.{k}": t for k, t in counted.items()},
        "optimizer": {"state": {0: {"momentum_buffer": torch.ones(3)}}, "param_groups": [{"lr": 0.1, "params": [0]}]},
    }
    hostile = state | {"evil": Payload()}
    files = {
        "zip": counted,
        "legacy": counted,
        "nested": training,
        "half": {k: t.half() for k, t in state.items()},
        "bfloat16": {k: t.bfloat16() for k, t in state.items()},
        "double": {k: t.double() for k, t in state.items()},
        "parameters": parameters,
        "strided": strided,
        "strided_legacy": strided,
        "shared": state | {"tied.weight": state["fc.weight"], "tied.row": state["fc.weight"][2]},
        "module": module,
        "malicious": hostile,
        "malicious_legacy": hostile,
    }
    for name, value in files.items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.save(value, folder / f"{name}.pth", _use_new_zipfile_serialization="legacy" not in name)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("outdir", type=Path)
    parser.add_argument("names", nargs="*", help="only these networks, or `containers`; all if none is given")
    parser.add_argument("--search", action="store_true", help="look for inputs of gradients anew")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    args.outdir.mkdir(parents=True, exist_ok=True)
    for golden in NETWORKS:
        if args.names and golden.name not in args.names:
            continue
        print(golden.name, flush=True)
        net = build(golden)
        forward_file(golden, net, args.outdir / f"{golden.name}.safetensors")
        for step in golden.steps:
            gradient_file(golden, step, args.outdir / f"{golden.name}.{step.mode}.safetensors", args.search)
    if not args.names or "containers" in args.names:
        container_files(args.outdir / "containers")


if __name__ == "__main__":
    main()
