"""Puts an expert of elm_jax on a T5 of Hugging Face transformers.

This file lies beside the expert's weights and needs torch, transformers and
safetensors only. With the folder on Python's path:

    import transformers
    import elm_expert

    model = transformers.T5ForConditionalGeneration.from_pretrained(BASE).eval()
    expert = elm_expert.attach(model)
    model(**inputs), model.generate(**inputs)  # compute as the expert
    expert.detach()  # the model is BASE again

BASE is the model that the expert was trained on; `base_model` in elm_expert.json names
it, if its author has said so. Model widths, layers and activations are compared, but
the weights of BASE cannot be: the expert makes nonsense of another one's. An expert
that was trained on a BASE held in int8 computes another function with it in floats:
`attach` warns of that, and `base_dtype` in elm_expert.json tells it.

Outputs equal those of elm_jax up to the order of float32 sums (1e-5 of the largest
logit). The adapters are modules of the model, so that `to`, `half`, `parameters` and
training reach them.
"""

import hashlib
import json
import pathlib
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import safetensors.torch
import torch

CONFIG = "elm_expert.json"
WEIGHTS = "elm_expert.safetensors"
FORMAT = 1

_ACTIVATIONS = {
    "gelu": lambda x: torch.nn.functional.gelu(x, approximate="tanh"),
    "relu": torch.nn.functional.relu,
    "silu": torch.nn.functional.silu,
    "swish": torch.nn.functional.silu,
    "tanh": torch.tanh,
}
# By insertion point: the stack, and within a block the sub-layer and its module.
_PLACES = {
    "encoder/self_attention": ("encoder", 0, "SelfAttention"),
    "encoder/mlp": ("encoder", 1, "DenseReluDense"),
    "decoder/self_attention": ("decoder", 0, "SelfAttention"),
    "decoder/cross_attention": ("decoder", 1, "EncDecAttention"),
    "decoder/mlp": ("decoder", 2, "DenseReluDense"),
}
_NORM = "layer_norm.weight"


class Adapter(torch.nn.Module):
    """Two dense layers with a narrow middle; gives what is added to a sub-layer."""

    def __init__(self, model_width: int, width: int, activation: str) -> None:
        super().__init__()
        self.down = torch.nn.Linear(model_width, width)
        self.up = torch.nn.Linear(width, model_width)
        self.activation = _ACTIVATIONS[activation]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps [..., model width] to the same shape."""
        x = x.to(self.down.weight.dtype)
        return self.up(self.activation(self.down(x)))


class Attached:
    """An expert on a model; `detach` takes it off again."""

    def __init__(self, model: torch.nn.Module, settings: dict) -> None:
        self.name = settings["name"]
        self.settings = settings
        self._model = model
        self._hooks, self._owners, self._base_norms = [], [], {}
        model.elm_expert = self

    def _add_adapter(
        self,
        owner: torch.nn.Module,
        like: torch.Tensor,
        name: str,
        tensors: dict[str, torch.Tensor],
    ) -> None:
        settings, start = self.settings, f"{name}.elm_adapter."
        adapter = Adapter(
            settings["model"]["d_model"], settings["width"], settings["activation"]
        )
        weights = {k.removeprefix(start): v for k, v in tensors.items() if start in k}
        adapter.load_state_dict(weights)
        adapter = adapter.to(like.device, like.dtype).train(owner.training)
        owner.elm_adapter = adapter
        self._owners.append(owner)
        hook = _hook(adapter, settings["parallel"])
        self._hooks.append(owner.register_forward_hook(hook, with_kwargs=True))

    def _set_norm(
        self, name: str, parameter: torch.nn.Parameter, values: torch.Tensor
    ) -> None:
        self._base_norms[name] = parameter.detach().clone()
        _copy(values, parameter)

    def detach(self) -> None:
        """Removes the adapters, and gives the base its own layer norms back."""
        for hook in self._hooks:
            hook.remove()
        for owner in self._owners:
            del owner.elm_adapter
        parameters = dict(self._model.named_parameters())
        for name, values in self._base_norms.items():
            _copy(values, parameters[name])
        self._hooks, self._owners, self._base_norms = [], [], {}
        if getattr(self._model, "elm_expert", None) is self:
            del self._model.elm_expert


def attach(
    model: torch.nn.Module, folder: str | pathlib.Path | None = None
) -> Attached:
    """Puts an expert on a model, in the model's dtype and on its devices.

    Args:
      model: A `T5ForConditionalGeneration` (or mT5's) with the base's weights.
      folder: Of the expert; by default the folder of this file.

    Raises:
      OSError: A file cannot be read.
      ValueError: The files do not belong together, the expert does not fit the model,
        or the model has an expert already. The model is then as it was.

    Warns:
      UserWarning: The expert was trained on its base held otherwise than in floats.
    """
    path = pathlib.Path(__file__).parent if folder is None else pathlib.Path(folder)
    settings = _read_settings(path / CONFIG)
    _check_model(model, settings)
    content = (path / WEIGHTS).read_bytes()
    if hashlib.sha256(content).hexdigest() != settings["weights_sha256"]:
        raise ValueError(f"{path / WEIGHTS} is not the file that {CONFIG} belongs to")
    tensors = safetensors.torch.load(content)
    places = dict(_adapted(model, settings["points"]))
    parameters = dict(model.named_parameters())
    _check_tensors(tensors, places, parameters, settings)
    if held := settings.get("base_dtype"):
        warnings.warn(
            f"the expert {settings['name']!r} was trained on {_base(settings)} held as"
            f" {held}; this model holds it in floats and computes another function"
            " with the expert",
            stacklevel=2,
        )
    attached = Attached(model, settings)
    try:
        for name, (layer, owner) in places.items():
            attached._add_adapter(owner, layer.layer_norm.weight, name, tensors)
        for name, values in tensors.items():
            if name.endswith(_NORM):
                attached._set_norm(name, parameters[name], values)
    except BaseException:
        attached.detach()
        raise
    return attached


def _base(settings: dict) -> str:
    return settings.get("base_model") or settings["base_name"]


def _read_settings(path: pathlib.Path) -> dict:
    """Returns the content of elm_expert.json, every name in it checked."""
    settings = json.loads(path.read_text("utf-8"))
    wrong = []
    if settings.get("format") != FORMAT:
        wrong.append(f"format {settings.get('format')!r}, and this file reads {FORMAT}")
    if settings.get("activation") not in _ACTIVATIONS:
        wrong.append(f"activation {settings.get('activation')!r}")
    points = settings.get("points")
    if not isinstance(points, list) or not {*points} <= {*_PLACES}:
        wrong.append(f"points {points!r}")
    if settings.get("parallel") not in (True, False):
        wrong.append(f"parallel {settings.get('parallel')!r}")
    width = settings.get("width")
    if not isinstance(width, int) or width < 1:
        wrong.append(f"width {width!r}")
    texts = ("name", "base_name", "weights_sha256")
    wrong += [name for name in texts if not isinstance(settings.get(name), str)]
    wrong += [] if isinstance(settings.get("model"), dict) else ["model"]
    wrong += [] if isinstance(settings.get("base_dtype", ""), str) else ["base_dtype"]
    if wrong:
        raise ValueError(f"{path} is not as it was written: {'; '.join(wrong)}")
    return settings


def _check_model(model: torch.nn.Module, settings: dict) -> None:
    if getattr(model, "elm_expert", None) is not None:
        raise ValueError(
            f"the model has the expert {model.elm_expert.name!r}; detach it first"
        )
    wrong = [
        f"{name} {getattr(model.config, name, None)!r} instead of {value!r}"
        for name, value in settings["model"].items()
        if getattr(model.config, name, None) != value
    ]
    if wrong:
        raise ValueError(
            f"not the expert's base, {_base(settings)}: {', '.join(wrong)}"
        )


def _adapted(
    model: torch.nn.Module, points: list
) -> Iterator[tuple[str, tuple[torch.nn.Module, torch.nn.Module]]]:
    """Yields the adapted modules by name, each with the sub-layer that it is of."""
    for point in points:
        stack, number, module = _PLACES[point]
        for index, block in enumerate(getattr(model, stack).block):
            layer = block.layer[number]
            name = f"{stack}.block.{index}.layer.{number}.{module}"
            yield name, (layer, getattr(layer, module))


def _check_tensors(
    tensors: dict, places: dict, parameters: dict, settings: dict
) -> None:
    outer, inner = settings["model"]["d_model"], settings["width"]
    expected = {}
    for name in places:
        start = f"{name}.elm_adapter."
        expected[f"{start}down.weight"] = (inner, outer)
        expected[f"{start}down.bias"] = (inner,)
        expected[f"{start}up.weight"] = (outer, inner)
        expected[f"{start}up.bias"] = (outer,)
    for name, parameter in parameters.items():
        if name.endswith(_NORM) and name in tensors:
            expected[name] = tuple(parameter.shape)
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    wrong = sorted(
        name
        for name in shapes.keys() | expected.keys()
        if shapes.get(name) != expected.get(name)
    )
    if wrong:
        raise ValueError(f"{WEIGHTS} and the model differ in {', '.join(wrong[:5])}")


def _hook(adapter: Adapter, is_parallel: bool) -> Callable[..., Any]:
    """Returns what adds an adapter to a module's first output."""

    def add(module: Any, args: tuple, kwargs: dict, output: Any) -> Any:
        del module
        first = output[0] if isinstance(output, tuple) else output
        x = first
        if is_parallel:
            x = args[0] if args else kwargs["hidden_states"]
        new = first + adapter(x).to(first.dtype)
        return (new, *output[1:]) if isinstance(output, tuple) else new

    return add


def _copy(values: torch.Tensor, parameter: torch.nn.Parameter) -> None:
    with torch.no_grad():
        parameter.copy_(values)
