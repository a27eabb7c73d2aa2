"""Compares refit's speed and memory with its peers', in turns on one machine.

Run it by tools/compare.sh. Every measurement is a process of its own: random images, two warm-up
steps, then steps until --seconds have passed; its figure is that of the median step. The
contestants of a case take turns, --rounds times, and the median round counts, so that a machine
whose clock drifts drifts for all of them. Ratios are refit's speed by the peer's; for memory, the
peak of refit's process by that of PyTorch's.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time

NETWORKS = ["efficientnet_lite0", "resnet18", "resnet50", "vgg16"]
SIZE = 224
TORCH = ["torch nhwc", "torch nchw"]
REFIT = os.path.join("target", "release", "refit")


# --- one measurement, in a process of its own ------------------------------------------------------


def median_step(step, seconds):
    """Seconds of the median step."""
    step()
    step()
    times, end = [], time.perf_counter() + seconds
    while len(times) < 3 or time.perf_counter() < end:
        began = time.perf_counter()
        step()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def peak_mib():
    with open("/proc/self/status", encoding="utf-8") as status:
        line = next(line for line in status if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def torch_network(name, classes):
    import torchvision

    if hasattr(torchvision.models, name):
        quick = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
        return getattr(torchvision.models, name)(num_classes=classes, **quick)
    import timm

    return timm.create_model(name, num_classes=classes)


def measure_torch(case, layout, threads, seconds):
    import torch

    torch.set_num_threads(threads)
    order = torch.channels_last if layout == "nhwc" else torch.contiguous_format
    training = case["mode"] == "train"
    net = torch_network(case["network"], 2 if training else 1000).to(memory_format=order)
    images = torch.randn(case["batch"], 3, case["size"], case["size"]).to(memory_format=order)
    loss_of = torch.nn.functional.cross_entropy
    if training:
        net.train()
        labels = torch.arange(case["batch"]) % 2
        optimizer = torch.optim.SGD(net.parameters(), lr=1e-3, momentum=0.9)

        def step():
            optimizer.zero_grad()
            given = net(images)
            # Some have auxiliary classifiers.
            outputs = [given] if torch.is_tensor(given) else [o for o in given if o is not None]
            sum(loss_of(output, labels) for output in outputs).backward()
            optimizer.step()

    else:
        net.eval()

        def step():
            with torch.inference_mode():
                net(images)

    return median_step(step, seconds), "PyTorch " + torch.__version__.split("+")[0]


def export(network, batch, size, path):
    import torch

    net = torch_network(network, 1000).eval()
    images = torch.randn(batch, 3, size, size)
    torch.onnx.export(net, (images,), path, input_names=["x"], dynamo=False, opset_version=17)


def measure_openvino(case, precision, threads, seconds):
    import numpy as np
    import openvino

    core = openvino.Core()
    settings = {"INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": threads}
    net = core.compile_model(core.read_model(case["onnx"]), "CPU", settings)
    images = np.random.randn(case["batch"], 3, case["size"], case["size"]).astype("float32")
    version = "OpenVINO " + openvino.__version__.split("-")[0]
    return median_step(lambda: net(images), seconds), version


def measure_onnxruntime(case, threads, seconds):
    import numpy as np
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(case["onnx"], options, ["CPUExecutionProvider"])
    images = np.random.randn(case["batch"], 3, case["size"], case["size"]).astype("float32")
    feed = {session.get_inputs()[0].name: images}
    version = "ONNX Runtime " + onnxruntime.__version__
    return median_step(lambda: session.run(None, feed), seconds), version


def measure_one(contestant, case, threads, seconds):
    peer, _, variant = contestant.partition(" ")
    if peer == "torch":
        step, version = measure_torch(case, variant, threads, seconds)
    elif peer == "openvino":
        step, version = measure_openvino(case, variant, threads, seconds)
    else:
        step, version = measure_onnxruntime(case, threads, seconds)
    print(json.dumps({"speed": case["batch"] / step, "mib": peak_mib(), "version": version}))


# --- the comparison --------------------------------------------------------------------------------


def run_refit(case, precision, threads, seconds):
    command = [REFIT, "bench", case["network"], "--mode", case["mode"]]
    command += ["--batch", str(case["batch"]), "--size", str(case["size"])]
    command += ["--precision", precision]
    command += ["--threads", str(threads), "--seconds", str(seconds), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        return None
    found = json.loads(done.stdout)
    return {
        "speed": found["images_per_second"],
        "mib": found["peak_rss_mib"],
        "version": "refit " + found["refit"],
    }


def run_peer(contestant, case, threads, seconds):
    job = json.dumps([contestant, case, threads, seconds])
    done = subprocess.run(
        [sys.executable, __file__, "--one", job], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        print(f"  {contestant}: {done.stderr.strip().splitlines()[-1:]}", file=sys.stderr)
        return None
    return json.loads(done.stdout.splitlines()[-1])


def contestants(case):
    if case["mode"] == "train" or case.get("zoo"):
        return ["refit f32", *TORCH]
    return [
        "refit f32",
        *TORCH,
        "openvino f32",
        "onnxruntime f32",
        "refit bf16",
        "openvino bf16",
    ]


def compare(case, rounds, threads, seconds):
    """Medians over the rounds, by contestant."""
    found = {name: [] for name in contestants(case)}
    for _ in range(rounds):
        for name, results in found.items():
            if name.startswith("refit"):
                result = run_refit(case, name.split()[1], threads, seconds)
            else:
                result = run_peer(name, case, threads, seconds)
            if result:
                results.append(result)
    medians = {}
    for name, results in found.items():
        if results:
            medians[name] = {
                "speed": statistics.median(r["speed"] for r in results),
                "mib": statistics.median(r["mib"] for r in results),
                "version": results[0]["version"],
            }
    return medians


def ratio(medians, ours, *theirs):
    """refit's speed by that of the fastest of the others."""
    best = max((medians[t]["speed"] for t in theirs if t in medians), default=None)
    if ours not in medians or not best:
        return ""
    return f"{medians[ours]['speed'] / best:.2f}"


def row(case, m):
    speed = lambda name: f"{m[name]['speed']:.1f}" if name in m else ""
    memory = ""
    if case["mode"] == "train" and "refit f32" in m and "torch nhwc" in m:
        least = min(m[t]["mib"] for t in TORCH if t in m)
        memory = f"{m['refit f32']['mib']:.0f} / {least:.0f} = {m['refit f32']['mib'] / least:.2f}"
    best_torch = max((m[t]["speed"] for t in TORCH if t in m), default=0)
    return [
        case["name"],
        speed("refit f32"),
        f"{best_torch:.1f}",
        ratio(m, "refit f32", *TORCH),
        speed("openvino f32"),
        ratio(m, "refit f32", "openvino f32"),
        speed("onnxruntime f32"),
        ratio(m, "refit f32", "onnxruntime f32"),
        speed("refit bf16"),
        speed("openvino bf16"),
        ratio(m, "refit bf16", "openvino bf16"),
        memory,
    ]


HEADER = [
    "case",
    "refit",
    "PyTorch",
    "ratio",
    "OpenVINO",
    "ratio",
    "ONNX Runtime",
    "ratio",
    "refit bf16",
    "OpenVINO bf16",
    "ratio",
    "peak MiB, refit / PyTorch",
]


def machine():
    with open("/proc/cpuinfo", encoding="utf-8") as info:
        names = [line.split(":")[1].strip() for line in info if line.startswith("model name")]
    return f"{names[0] if names else platform.processor()}, {os.cpu_count()} processors"


def usual_cases():
    for mode, batch in [("infer", 32), ("infer", 1), ("train", 32)]:
        for network in NETWORKS:
            name = f"{network}, {mode}, batch {batch}"
            yield {"name": name, "network": network, "mode": mode, "batch": batch, "size": SIZE}


def zoo_cases():
    """Every network in both modes, in batches of 16, or 4 where images cost more."""
    listed = subprocess.run([REFIT, "models", "--json"], capture_output=True, check=True)
    for network in json.loads(listed.stdout):
        if network["name"] == "small":
            # refit's own, which no peer has.
            continue
        batch = 16 if network["multiply_adds"] < 3e9 else 4
        for mode in ["infer", "train"]:
            name, size = network["name"], network["input"]["size"]
            case = {"network": name, "mode": mode, "batch": batch, "size": size, "zoo": True}
            yield {"name": f"{name}, {mode}, batch {batch}", **case}


def main():
    if sys.argv[1:2] == ["--one"]:
        return measure_one(*json.loads(sys.argv[2]))
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", default="", help="cases whose name holds this")
    parser.add_argument("--zoo", action="store_true", help="every network, against PyTorch alone")
    options = parser.parse_args()
    cases = zoo_cases() if options.zoo else usual_cases()
    print(f"{machine()}, {options.threads} threads, {time.strftime('%Y-%m-%d')}; images a second\n")
    shown = [0, 1, 2, 3, 11] if options.zoo else range(len(HEADER))
    print("| " + " | ".join(HEADER[i] for i in shown) + " |")
    print("|---" * len(shown) + "|")
    versions = set()
    with tempfile.TemporaryDirectory() as folder:
        for case in cases:
            if options.only not in case["name"]:
                continue
            if "openvino f32" in contestants(case):
                case["onnx"] = os.path.join(folder, f"{case['network']}-{case['batch']}.onnx")
                job = [sys.executable, __file__, "--export", json.dumps(case)]
                subprocess.run(job, capture_output=True, check=True)
            medians = compare(case, options.rounds, options.threads, options.seconds)
            versions.update(m["version"] for m in medians.values())
            cells = row(case, medians)
            print("| " + " | ".join(cells[i] for i in shown) + " |", flush=True)
    print("\n" + ", ".join(sorted(versions)))
    return None


if __name__ == "__main__":
    if sys.argv[1:2] == ["--export"]:
        wanted = json.loads(sys.argv[2])
        export(wanted["network"], wanted["batch"], wanted["size"], wanted["onnx"])
    else:
        main()
