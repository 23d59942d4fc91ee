"""The forward pass of the original ELM code on a T5 1.1, in NumPy and by its names.

Written from a reading of joeljang/ELM (modeling_t5.py, adapter_controller.py,
adapter_modeling.py) and of T5's description, apart from our model: layers one by one,
matrices [outputs, inputs], no dropout.
"""

import numpy as np

TASK = "cosmosqa"
NUM_BUCKETS, MAX_DISTANCE = 32, 128


def norm(x, weight):
    return weight * x / np.sqrt(np.mean(x**2, axis=-1, keepdims=True) + 1e-6)


def gelu_new(x):
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def softmax(x):
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def bucket(distance, is_encoder):
    """The bucket of key position minus query position."""
    number, start = NUM_BUCKETS, 0
    if is_encoder:
        number //= 2
        start = number if distance > 0 else 0
        distance = abs(distance)
    else:
        distance = max(-distance, 0)
    exact = number // 2
    if distance < exact:
        return start + distance
    share = np.log(distance / exact) / np.log(MAX_DISTANCE / exact)
    return start + min(exact + int(share * (number - exact)), number - 1)


class Original:
    """A base's tensors by Hugging Face's names, and an expert's by the ELM code's.

    The expert's layer norms stand in place of the base's.
    """

    def __init__(self, base, expert, num_heads):
        self._w = base | expert
        self._num_heads = num_heads

    def logits(self, inputs, targets):
        """float64 [len(targets), V] for one row of tokens without padding."""
        x = self._w["shared.weight"][inputs].astype(np.float64)
        length = len(inputs)
        for n in range(self._depth("encoder")):
            layer = f"encoder.block.{n}.layer"
            mask = np.ones((length, length), bool)
            x = self._self_attention(x, layer, mask, is_encoder=True)
            x = self._feed_forward(x, f"{layer}.1")
        encoded = norm(x, self._w["encoder.final_layer_norm.weight"])

        y = self._w["shared.weight"][targets].astype(np.float64)
        for n in range(self._depth("decoder")):
            layer = f"decoder.block.{n}.layer"
            mask = np.tril(np.ones((len(targets),) * 2, bool))
            y = self._self_attention(y, layer, mask, is_encoder=False)
            # No adapter here.
            h = norm(y, self._w[f"{layer}.1.layer_norm.weight"])
            y = y + self._attention(h, encoded, f"{layer}.1.EncDecAttention", 0, True)
            y = self._feed_forward(y, f"{layer}.2")
        y = norm(y, self._w["decoder.final_layer_norm.weight"])
        return y @ self._w["lm_head.weight"].T

    def _depth(self, stack):
        start = f"{stack}.block."
        blocks = (n for n in self._w if n.startswith(start))
        return 1 + max(int(n.removeprefix(start).split(".")[0]) for n in blocks)

    def _self_attention(self, x, layer, mask, *, is_encoder):
        h = norm(x, self._w[f"{layer}.0.layer_norm.weight"])
        stack = "encoder" if is_encoder else "decoder"
        table = self._w[
            f"{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
        ]
        length = len(x)
        buckets = [
            [bucket(k - q, is_encoder) for k in range(length)] for q in range(length)
        ]
        bias = table[np.array(buckets)].transpose(2, 0, 1)
        out = self._attention(h, h, f"{layer}.0.SelfAttention", bias, mask)
        return x + self._adapter(out, f"{layer}.0")

    def _feed_forward(self, x, layer):
        h = norm(x, self._w[f"{layer}.layer_norm.weight"])
        wi_0, wi_1, wo = (
            self._w[f"{layer}.DenseReluDense.{n}.weight"]
            for n in ("wi_0", "wi_1", "wo")
        )
        out = (gelu_new(h @ wi_0.T) * (h @ wi_1.T)) @ wo.T
        return x + self._adapter(out, layer)

    def _attention(self, x, attended, name, bias, mask):
        def heads(rows, part):
            projected = rows @ self._w[f"{name}.{part}.weight"].T
            return projected.reshape(len(rows), self._num_heads, -1).swapaxes(0, 1)

        q, k, v = heads(x, "q"), heads(attended, "k"), heads(attended, "v")
        scores = np.where(mask, q @ k.swapaxes(1, 2) + bias, -np.inf)
        mixed = (softmax(scores) @ v).swapaxes(0, 1).reshape(len(x), -1)
        return mixed @ self._w[f"{name}.o.weight"].T

    def _adapter(self, x, layer):
        """The bottleneck on a sub-layer's output, with its own residual."""
        start = f"{layer}.adapter_controller.adapters.{TASK}"

        def linear(h, side):
            weight = self._w[f"{start}.{side}_sampler.weight"]
            return h @ weight.T + self._w[f"{start}.{side}_sampler.bias"]

        return x + linear(gelu_new(linear(x, "down")), "up")


def expert_tensors(base, width=4, seed=2):
    """Random tensors of an expert, named as the ELM code names its files."""
    rng = np.random.default_rng(seed)
    emb_dim = base["shared.weight"].shape[1]
    tensors = {}
    for name, weight in base.items():
        if name.endswith("layer_norm.weight"):
            tensors[name] = np.exp(0.3 * rng.normal(size=weight.shape))
            layer = name.removesuffix(".layer_norm.weight")
            is_cross = layer.startswith("decoder") and layer.endswith("layer.1")
            if "final" in name or is_cross:
                continue
            start = f"{layer}.adapter_controller.adapters.{TASK}"
            for side, shape in (("down", (width, emb_dim)), ("up", (emb_dim, width))):
                kernel = f"{start}.{side}_sampler.weight"
                tensors[kernel] = rng.normal(size=shape) / shape[1] ** 0.5
                tensors[f"{start}.{side}_sampler.bias"] = rng.normal(size=shape[0])
    return {name: array.astype(np.float32) for name, array in tensors.items()}
