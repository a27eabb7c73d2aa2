#!/bin/sh
# Measures refit, PyTorch, ONNX Runtime and OpenVINO side by side on this machine and prints a table
# of ratios. The first run installs the peers (several GB) into target/peers, or into $REFIT_PEERS.
#
#   tools/compare.sh                                 everything, 3 rounds
#   tools/compare.sh --rounds 5 --seconds 8          longer
#   tools/compare.sh --only resnet18                 cases whose name holds this
#   tools/compare.sh --zoo --rounds 1                every network, against PyTorch alone
set -eu
cd "$(dirname "$0")/.."
peers=${REFIT_PEERS:-target/peers}
if ! [ -x "$peers/bin/python" ]; then
    python3 -m venv "$peers"
    "$peers/bin/pip" install -q torch torchvision timm onnx onnxruntime openvino
fi
cargo build --release --workspace
exec "$peers/bin/python" tools/compare.py "$@"
