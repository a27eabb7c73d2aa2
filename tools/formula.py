"""Parameters by formula: any program that knows it makes the same ones, without a file of weights."""

import math

import numpy as np


def fnv1a64(text):
    h = 0xCBF29CE484222325
    for byte in text.encode():
        h = (h ^ byte) * 0x100000001B3 % 2**64
    return h


def uniform(name, n):
    """`n` numbers in [0, 1), multiples of 2^-24: exact in float32."""
    u64 = np.uint64
    with np.errstate(over="ignore"):
        z = u64(fnv1a64(name)) + np.arange(1, n + 1, dtype=u64) * u64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> u64(30))) * u64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> u64(27))) * u64(0x94D049BB133111EB)
        z = z ^ (z >> u64(31))
    return (z >> u64(40)).astype(np.float64) / 2**24


def parameter(name, shape, gain, bias):
    n = math.prod(shape)
    if name.endswith(".running_mean"):
        x = 0.2 * (2 * uniform(name, n) - 1)
    elif name.endswith(".bias"):
        x = bias[0] + bias[1] * (2 * uniform(name, n) - 1)
    elif name.endswith(".running_var"):
        x = 0.5 + uniform(name, n)
    elif len(shape) in (1, 3):
        x = 0.8 + 0.4 * uniform(name, n)
    else:
        # Pairs of opposite weights cancel what all channels share after a ReLU; without them
        # deep networks give nearly the same logits for every input.
        pairs = 2 * uniform(name, (n + 1) // 2) - 1
        x = np.stack([pairs, -pairs], axis=1).ravel()[:n] * math.sqrt(gain / (n // shape[0]))
    return x.astype(np.float32).reshape(shape)
