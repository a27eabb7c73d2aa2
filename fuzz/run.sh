#!/usr/bin/env bash
# Fuzzes each parser for so many seconds: run.sh SECONDS [TARGET...]
set -euo pipefail
cd "$(dirname "$0")"
seconds="${1:?seconds for each target}"
shift
targets=("$@")
if [ ${#targets[@]} = 0 ]; then targets=(safetensors pickle checkpoint onnx); fi
for target in "${targets[@]}"; do
    mkdir -p "corpus/$target"
    golden=../crates/refit-net/tests/golden
    case "$target" in
        pickle) seeds=seeds/pickle ;;
        onnx) seeds=$golden/onnx ;;
        *) seeds=$golden/containers ;;
    esac
    # Coverage needs no unstable flag; without sanitizers a stable compiler does.
    cargo fuzz run --sanitizer none "$target" "corpus/$target" "$seeds" -- \
        -max_total_time="$seconds" -timeout=20 -rss_limit_mb=4096 -max_len=65536 -print_final_stats=1
done
