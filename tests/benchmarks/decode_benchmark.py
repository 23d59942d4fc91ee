"""Speed of decoding with a cache, against recomputing and Hugging Face; one JSON line.

Usage: python tests/benchmarks/decode_benchmark.py [--tiny] [--hf_python PATH]

T5 1.1 of 10 M parameters, float32, inputs 256, batch 1 and 32. Tokens per second are
those of whole calls, the encoder's time included. The ways take turns:

- `cached`: `make_decode_fn`, greedy.
- `recomputed`: greedy without a cache, the whole target so far at each position,
  padded to the next multiple of 8; the input is encoded once there too.
- `huggingface`: `generate` of transformers with its cache and the same weights,
  greedy, by the interpreter PATH (this one if left out); on the same number of
  cores, and in turns with ours. Its tokens are compared with ours.
- `beams` and `huggingface_beams`: the same with four beams, "never" stopping early.

torch's threads wait for one another, which on a busy machine costs more than they gain:
run this under `taskset -c 0` there, so that both sides have one core.
"""

import argparse
import dataclasses
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

import jax
import jax.numpy as jnp
import numpy as np

from elm_jax import trees
from elm_jax.checkpoints import huggingface, layers
from elm_jax.model import config, decoding, t5
from elm_jax.model.decoding_spec import GREEDY, BeamSearch

SHAPE = config.T5Config(
    vocab_size=1024,
    emb_dim=256,
    num_heads=4,
    head_dim=64,
    mlp_dim=1024,
    num_encoder_layers=4,
    num_decoder_layers=4,
)
TINY_SHAPE = dataclasses.replace(
    SHAPE, vocab_size=64, emb_dim=16, num_heads=2, head_dim=8, mlp_dim=32
)
BEAMS = BeamSearch(num_beams=4, early_stopping="never")
STEP = 8  # target positions by which the recomputed prefix grows


def make_recompute_fn(model, max_decode_len):
    """Returns `(params, inputs) -> tokens` that keeps nothing between positions."""
    encode = jax.jit(lambda p, x: model.apply({"params": p}, x, method="encode"))

    @jax.jit
    def following(params, encoded, inputs, prefix, position):
        logits = model.apply(
            {"params": params}, encoded, inputs, prefix, method="decode"
        )
        logits = jax.lax.dynamic_index_in_dim(logits, position, 1, keepdims=False)
        return jnp.argmax(logits, axis=-1)

    def decode(params, inputs):
        encoded = encode(params, inputs)
        row = np.zeros((len(inputs), max_decode_len + 1), np.int32)
        ended = np.zeros(len(inputs), bool)
        for position in range(max_decode_len):
            width = min(position // STEP * STEP + STEP, max_decode_len)
            prefix, at = row[:, :width], np.int32(position)
            best = np.asarray(following(params, encoded, inputs, prefix, at))
            row[:, position + 1] = np.where(ended, 0, best)
            ended |= best == 1
        return row[:, 1:]

    return decode


class HuggingFace:
    """The same model in another process, which decodes when told to."""

    def __init__(self, python, shape, params, max_decode_len):
        self.folder = tempfile.TemporaryDirectory()
        leaves = trees.flatten(layers.unstack_layers(params))
        arrays = {}
        for name, leaf in leaves.items():
            place = huggingface.place(name)
            leaf = np.asarray(leaf)
            arrays[place.name] = leaf.T if place.is_transposed else leaf
        path = pathlib.Path(self.folder.name) / "weights.npz"
        np.savez(path, **arrays)
        script = pathlib.Path(__file__).with_name("hugging_face_decoding.py")
        options = json.dumps(dataclasses.asdict(shape) | {"length": max_decode_len})
        self.process = subprocess.Popen(
            [python, str(script), str(path), options],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.versions = json.loads(self.process.stdout.readline())

    def decode(self, inputs, num_beams):
        """Returns tokens and the seconds that decoding took."""
        request = {"inputs": inputs.tolist(), "num_beams": num_beams}
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        answer = json.loads(self.process.stdout.readline())
        return np.array(answer["tokens"]), answer["secs"]

    def close(self):
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()
        self.folder.cleanup()


def has_transformers(python):
    """Returns whether an interpreter can import torch and transformers."""
    run = subprocess.run(
        [python, "-c", "import torch, transformers"], capture_output=True, check=False
    )
    return run.returncode == 0


def measure(ways, repeats):
    """Returns each way's tokens and least seconds; the ways take turns."""
    tokens, secs = {}, {name: [] for name in ways}
    for turn in range(repeats + 1):  # the first compiles
        for name, way in ways.items():
            before = time.perf_counter()
            out = way()
            elapsed = time.perf_counter() - before
            tokens[name], elapsed = out if isinstance(out, tuple) else (out, elapsed)
            if turn:
                secs[name].append(elapsed)
    return tokens, {name: min(each) for name, each in secs.items()}


def compare(model, params, hugging_face, args, batch_size):
    """Returns the figures of one batch size."""
    rng = np.random.default_rng(0)
    shape = (batch_size, args.inputs_length)
    inputs = rng.integers(2, model.config.vocab_size, shape).astype(np.int32)
    ids = np.arange(batch_size, dtype=np.int32)
    length = args.length
    greedy = decoding.make_decode_fn(model, GREEDY, max_decode_len=length)
    beams = decoding.make_decode_fn(model, BEAMS, max_decode_len=length)
    recompute = make_recompute_fn(model, length)
    ways = {
        "cached": lambda: np.asarray(greedy(params, inputs, ids)),
        "recomputed": lambda: recompute(params, inputs),
        "beams": lambda: np.asarray(beams(params, inputs, ids)),
    }
    if hugging_face:
        ways["huggingface"] = lambda: hugging_face.decode(inputs, 1)
        ways["huggingface_beams"] = lambda: hugging_face.decode(inputs, BEAMS.num_beams)
    tokens, secs = measure(ways, args.repeats)
    # The end token aside, every row runs to the greatest length.
    counts = {
        name: int(np.sum(np.cumsum(t == 1, axis=1) - (t == 1) == 0))
        for name, t in tokens.items()
    }
    row = {f"{n}_tokens_per_sec": round(counts[n] / secs[n], 1) for n in ways}
    row["cached_over_recomputed"] = round(secs["recomputed"] / secs["cached"], 2)
    row["recomputed_equal"] = bool(np.all(tokens["recomputed"] == tokens["cached"]))
    if hugging_face:
        for ours, theirs_way in (
            ("cached", "huggingface"),
            ("beams", "huggingface_beams"),
        ):
            row[f"{ours}_over_{theirs_way}"] = round(secs[theirs_way] / secs[ours], 2)
            same = np.mean(np.all(tokens[ours] == tokens[theirs_way], axis=1))
            row[f"{theirs_way}_rows_equal"] = round(float(same), 3)
    return row


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tiny", action="store_true", help="a model of no size")
    parser.add_argument("--hf_python", default=sys.executable, help="has transformers")
    parser.add_argument("--length", type=int, default=64, help="target tokens")
    parser.add_argument("--inputs_length", type=int, default=256, help="tokens")
    parser.add_argument("--repeats", type=int, default=3, help="turns of each way")
    parser.add_argument("--scan_unroll", type=int, default=1, help="of the model")
    args = parser.parse_args()
    if args.tiny:
        args.length, args.inputs_length, args.repeats = 6, 8, 1
    shape = dataclasses.replace(
        TINY_SHAPE if args.tiny else SHAPE, scan_unroll=args.scan_unroll
    )
    model = t5.T5(shape)
    params = t5.init_params(model, seed=0)
    hugging_face = None
    if has_transformers(args.hf_python):
        hugging_face = HuggingFace(args.hf_python, shape, params, args.length)
    row = {
        "benchmark": "decode",
        "length": args.length,
        "huggingface": hugging_face.versions
        if hugging_face
        else f"not compared: {args.hf_python} has no torch and transformers",
        "load_before": round(os.getloadavg()[0], 2),
    }
    for batch_size in (1, 32):
        row[f"batch_{batch_size}"] = compare(
            model, params, hugging_face, args, batch_size
        )
    if hugging_face:
        hugging_face.close()
    print(json.dumps(row))


if __name__ == "__main__":
    main()
