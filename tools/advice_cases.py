"""Does the advice agree with the trials? A table of cases, for docs/advice.md.

    python tools/advice_cases.py REFIT WORK FOLDER:VARIANT,VARIANT ...

FOLDER holds class folders, or train/ and val/ or test/ above them. Each variant is made in WORK and trained
on by `refit train --strategy auto`, and by `--strategy features` beside it; what has ended in WORK is not
run again. The table goes to stdout, one line a case, whether the trials agreed or not.

Variants: `all` as it is; `five` with five training images a class; `drawing`, grey pencil lines on white;
`negative`; `grey`; `tiny`, 32 pixels and enlarged again. `five-drawing` is both.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter, ImageOps

IMAGES = {".jpg", ".jpeg", ".png", ".bmp", ".webp"}
FEW = 5


def drawing(image):
    """Pencil lines where brightness changes (Sobel's gradient), the darker the more it does."""
    grey = np.asarray(image.convert("L").filter(ImageFilter.GaussianBlur(1.5)), dtype=np.float32)
    padded = np.pad(grey, 1, mode="edge")
    smooth = lambda a, b, c: a + 2 * b + c
    across = smooth(padded[:-2, 2:], padded[1:-1, 2:], padded[2:, 2:]) - smooth(
        padded[:-2, :-2], padded[1:-1, :-2], padded[2:, :-2]
    )
    down = smooth(padded[2:, :-2], padded[2:, 1:-1], padded[2:, 2:]) - smooth(
        padded[:-2, :-2], padded[:-2, 1:-1], padded[:-2, 2:]
    )
    strength = np.hypot(across, down)
    lines = 255 - np.clip(255 * strength / max(np.percentile(strength, 98), 1.0), 0, 255)
    return Image.fromarray(lines.astype(np.uint8)).convert("RGB")


def tiny(image):
    scale = 32 / min(image.size)
    small = image.resize([max(1, round(side * scale)) for side in image.size], Image.Resampling.BOX)
    return small.resize(image.size, Image.Resampling.BICUBIC)


CHANGES = {
    "drawing": drawing,
    "negative": ImageOps.invert,
    "grey": lambda image: image.convert("L").convert("RGB"),
    "tiny": tiny,
}


def class_folders(root):
    """(split or "", class folder) of all classes."""
    splits = [s for s in ("train", "val", "test") if (root / s).is_dir()]
    parents = [(s, root / s) for s in splits] or [("", root)]
    return [(s, c) for s, p in parents for c in sorted(p.iterdir()) if c.is_dir()]


def make(root, variant, target):
    """Writes a variant of a folder, whole or not at all; unreadable images stay out of it."""
    if target.exists():
        return
    parts = [part for part in variant.split("-") if part != "all"]
    unknown = [part for part in parts if part != "five" and part not in CHANGES]
    if unknown:
        sys.exit(f"no variant `{unknown[0]}`; there are all, five, {', '.join(CHANGES)}")
    unfinished = target.with_name(target.name + ".part")
    shutil.rmtree(unfinished, ignore_errors=True)
    for split, folder in class_folders(root):
        out = unfinished / split / folder.name
        out.mkdir(parents=True)
        files = [f for f in sorted(folder.iterdir()) if f.suffix.lower() in IMAGES]
        for file in files[:FEW] if "five" in parts and split in ("", "train") else files:
            changes = [CHANGES[part] for part in parts if part in CHANGES]
            if not changes:
                shutil.copy(file, out / file.name)
                continue
            try:
                image = ImageOps.exif_transpose(Image.open(file)).convert("RGB")
            except OSError as error:
                print(f"{file}: {error}", file=sys.stderr)
                continue
            for change in changes:
                image = change(image)
            image.save(out / f"{file.stem}.png")
    unfinished.rename(target)


def run(refit, data, strategy, out):
    """Trains, unless that was done before."""
    if (out / "metrics.json").is_file():
        return
    shutil.rmtree(out, ignore_errors=True)
    command = [refit, "train", data, "--strategy", strategy, "--out", out, "--no-report"]
    log = out.with_suffix(".log")
    began = time.time()
    with open(log, "w") as text:
        if subprocess.run(command, stderr=text).returncode != 0:
            sys.exit(f"{' '.join(map(str, command))} failed: see {log}")
    print(f"{data.name} by {strategy}: {time.time() - began:.0f} s", file=sys.stderr, flush=True)


def named(candidate):
    layer = candidate.get("unfreeze_from")
    return f"`{candidate['strategy']}`" + (f" from `{layer}`" if layer else "")


def row(name, auto, features):
    choice = json.loads((auto / "advice.json").read_text())
    report, plain = (json.loads((run / "metrics.json").read_text()) for run in (auto, features))
    advice = choice["advice"]
    advised = advice["conclusion"]["candidates"][0]
    similarity = advice.get("similarity")
    looks = f"{similarity['distance']:.1f}, {similarity['verdict']}" if similarity else "not known"
    trials = sorted(choice["trials"], key=lambda t: t["candidate"]["strategy"])
    losses = [
        f"`{t['candidate']['strategy']}` " + ("diverged" if t["loss"] is None else f"{t['loss']:.3f}")
        for t in trials
    ]
    agrees = advised["strategy"] == choice["chosen"]["strategy"] if trials else None
    share = lambda metrics: f"{100 * metrics['top1']:.1f}%" if metrics else "-"
    both = lambda split: f"{share(plain[split])} / {share(report[split])}" if report[split] else ""
    cells = [
        name,
        sum(advice["amount"]["by_class"]),
        looks,
        named(advised),
        ", ".join(losses) or "none",
        named(choice["chosen"]),
        {True: "yes", False: "no", None: "not tried"}[agrees],
        both("val"),
        both("test"),
        f"{report['seconds']['total']:.0f} s",
    ]
    return agrees, "| " + " | ".join(map(str, cells)) + " |"


def main():
    if len(sys.argv) < 4:
        sys.exit(__doc__)
    refit, work = Path(sys.argv[1]).absolute(), Path(sys.argv[2]).absolute()
    os.environ["REFIT_CACHE"] = str(work / "cache")
    (work / "runs").mkdir(parents=True, exist_ok=True)
    rows = []
    for case in sys.argv[3:]:
        root, _, variants = case.rpartition(":")
        root = Path(root).absolute()
        for variant in variants.split(","):
            name = f"{root.name}-{variant}"
            data = work / "data" / name
            data.parent.mkdir(exist_ok=True)
            make(root, variant, data)
            runs = [work / "runs" / f"{name}-{strategy}" for strategy in ("auto", "features")]
            run(refit, data, "auto", runs[0])
            run(refit, data, "features", runs[1])
            rows.append(row(f"{root.name}, {variant}", *runs))
    head = [
        "images", "to learn from", "distance", "advice", "log loss in the trials", "chosen",
        "agrees", "validation: `features` / run", "test: `features` / run", "time",
    ]
    print("| " + " | ".join(head) + " |\n" + "|---" * len(head) + "|")
    for _, line in rows:
        print(line)
    tried = [agrees for agrees, _ in rows if agrees is not None]
    print(f"\n{sum(tried)} of {len(tried)} agree.")


if __name__ == "__main__":
    main()
