"""What an adapter_config.json of AdapterHub's `adapters` says of bottlenecks in a T5.

Every option is obeyed, known to change nothing in a trained adapter, or refused.

Reference:
  adapter-hub/adapters 1.3: BnConfig, methods/bottleneck.py, methods/modeling.py.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from elm_jax import errors, fields
from elm_jax.disk import json_files

# The option for each insertion point; one holds for both stacks.
_OPTIONS = {
    "encoder/self_attention": "mh_adapter",
    "encoder/mlp": "output_adapter",
    "decoder/self_attention": "mh_adapter",
    "decoder/cross_attention": "cross_adapter",
    "decoder/mlp": "output_adapter",
}
# Their names are those of transformers; ours of "gelu" is the tanh form.
_ACTIVATIONS = {
    "gelu_new": "gelu",
    "gelu_pytorch_tanh": "gelu",
    "relu": "relu",
    "silu": "silu",
    "swish": "swish",
    "tanh": "tanh",
}
# In files of before `adapters`, which tell no version.
_FORMER_NAMES = {"gelu": "gelu_new", "gelu_orig": "gelu"}
# What makes the function of our adapters; the first is what is meant by silence.
_NEEDED: Mapping[str, tuple[Any, ...]] = {
    "original_ln_before": (False,),  # else the adapter reads the residual stream too
    "original_ln_after": (True,),
    "residual_before_ln": (True, False),
    "ln_before": (False,),
    "ln_after": (False,),
    "is_parallel": (False,),  # that one reads what is in front of the layer norm
    "use_gating": (False,),
    "inv_adapter": (None,),
    "phm_layer": (False,),
}
# They shape how a training starts or goes, or belong to something that is off.
_WITHOUT_EFFECT = (
    "architecture",  # None, of bottlenecks; others are refused before
    *("init_weights", "init_weights_seed", "dropout", "stochastic_depth"),
    *("adapter_residual_before_ln", "inv_adapter_reduction_factor"),
    *("phm_dim", "phm_bias", "phm_c_init", "phm_init_range", "phm_rank", "learn_phm"),
    *("factorized_phm_W", "shared_W_phm", "shared_phm_rule", "factorized_phm_rule"),
    "hypercomplex_nonlinearity",
)
_MUST_SAY = ("mh_adapter", "output_adapter", "non_linearity", "reduction_factor")
_MOST_WIDTH = 2**20


class ModelShape(NamedTuple):
    """What of a model decides how its adapters look.

    Attributes:
      emb_dim: Model width.
      encoder_layers: Depth of the encoder, whose layers are counted first.
      decoder_layers: Depth of the decoder.
    """

    emb_dim: int
    encoder_layers: int
    decoder_layers: int

    def layers(self, point: str) -> range:
        """Returns AdapterHub's numbers of the layers that have a point."""
        if point.startswith("encoder/"):
            return range(self.encoder_layers)
        return range(self.encoder_layers, self.encoder_layers + self.decoder_layers)


class Settings(NamedTuple):
    """Adapters of a T5.

    Attributes:
      name: In the tensors' names.
      activation: Our name of it.
      widths: By insertion point and number of the layer in its stack; a layer without
        an adapter is not in it.
      scaling: A number; or "learned" or "channel", tensors in the file.
    """

    name: str
    activation: str
    widths: dict[tuple[str, int], int]
    scaling: float | str


def read(content: Mapping[str, Any], shape: ModelShape, *, of: str) -> Settings:
    """Returns what the settings say for a model.

    Args:
      content: What adapter_config.json has.
      shape: Of the model.
      of: What the settings are of, for the message.

    Raises:
      CheckpointError: The settings are of another kind of adapter or model, or have
        options that our adapters do not have; all are named.
    """
    config: Any = content.get("config")
    if not isinstance(config, dict):
        raise _refused(of, [f"config = {json_files.shown(config)}"])
    wrong = [
        f"{name} = {json_files.shown(content.get(name))}"
        for name, is_right in (
            ("name", isinstance(content.get("name"), str) and content["name"]),
            ("model_type", content.get("model_type") in ("t5", "mt5")),
            ("hidden_size", content.get("hidden_size") == shape.emb_dim),
        )
        if not is_right
    ]
    if config.get("architecture") is not None:
        problem = f"architecture = {json_files.shown(config['architecture'])}"
        raise _refused(of, [*wrong, problem])
    if isinstance(activation := config.get("non_linearity"), str):
        activation = activation.lower()
        if "version" not in content:
            activation = _FORMER_NAMES.get(activation, activation)
        config = config | {"non_linearity": activation}
    wrong += [
        f"{json_files.shown(name)[1:-1]} = {json_files.shown(config[name])}"
        for name in config
        if not _is_right(config, name)
    ]
    wrong += [f"no {name}" for name in _MUST_SAY if name not in config]
    if wrong:
        raise _refused(of, wrong)
    widths = _widths(config, shape)
    problem = f"reduction_factor = {json_files.shown(config['reduction_factor'])}"
    if not widths:
        raise _refused(of, ["no adapter in any layer"])
    if None in widths.values():
        raise _refused(of, [f"{problem}, which tells nothing of some layers"])
    if 0 in widths.values():
        raise _refused(of, [f"{problem}, for too wide adapters"])
    return Settings(
        name=content["name"],
        activation=_ACTIVATIONS[config["non_linearity"]],
        widths={key: width for key, width in widths.items() if width},
        scaling=config.get("scaling", 1.0),
    )


def _is_right(config: Mapping[str, Any], name: str) -> bool:
    """Returns whether our adapters can have a setting, or it changes nothing."""
    value = config[name]
    if name in _NEEDED:
        return any(value is allowed for allowed in _NEEDED[name])
    if name in _OPTIONS.values():
        return isinstance(value, bool)
    if name == "non_linearity":
        return value in tuple(_ACTIVATIONS)
    if name == "reduction_factor":
        values = value.values() if isinstance(value, dict) else [value]
        return all(map(_is_factor, values))
    if name == "scaling":  # `adapters` refuses whole numbers
        is_number = isinstance(value, float)
        return value in ("learned", "channel") or (
            is_number and json_files.fits(abs(value), fields.Scale)
        )
    if name == "leave_out":
        return json_files.fits(value, tuple[int, ...])
    # An option of tomorrow does no harm as long as it is off.
    return name in _WITHOUT_EFFECT or value in (None, False, [], {})


def _is_factor(value: Any) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and 0 < value < math.inf


def _widths(config: Any, shape: ModelShape) -> dict[tuple[str, int], int | None]:
    """Returns the width of each adapter; None where nothing tells it, 0 if too wide."""
    factors: Any = config["reduction_factor"]
    widths: dict[tuple[str, int], int | None] = {}
    for point, option in _OPTIONS.items():
        numbers = shape.layers(point) if config.get(option, False) else ()
        for index, number in enumerate(numbers):
            if number in config.get("leave_out", ()):
                continue
            factor: Any = factors
            if isinstance(factors, dict):
                default = factors.get("default")
                factor = factors.get(f"{number}", default)
            widths[point, index] = None if factor is None else _width(shape, factor)
    return widths


def _width(shape: ModelShape, factor: float) -> int:
    if factor * _MOST_WIDTH < shape.emb_dim:
        return 0
    return max(1, int(shape.emb_dim // factor))


def write(
    spec: Mapping[str, Any], shape: ModelShape, *, name: str, width: int, base_name: str
) -> dict[str, Any]:
    """Returns the content of adapter_config.json for an expert of ours.

    Args:
      spec: Fields of the adapter's specification.
      shape: Of the model.
      name: In the tensors' names.
      width: Of the adapters' middle.
      base_name: What `adapters` calls the base; "" for nothing.

    Raises:
      CheckpointError: `adapters` has no such adapters.
    """
    points = spec["points"]
    if spec["parallel"]:
        raise _no_place("parallel = True", "adapters behind a sub-layer")
    left_out = _left_out(points, shape)
    factor = shape.emb_dim / width
    if shape.emb_dim % width:  # it divides without rest, and drops what is left
        factor = shape.emb_dim / (width + 0.5)
    on = {_OPTIONS[point] for point in points}
    hub_activations = {
        activation: name for name, activation in reversed(_ACTIVATIONS.items())
    }
    return {
        "config": {
            **{option: option in on for option in sorted({*_OPTIONS.values()})},
            "adapter_residual_before_ln": False,
            "dropout": 0.0,
            "init_weights": "bert",
            "inv_adapter": None,
            "inv_adapter_reduction_factor": None,
            "is_parallel": False,
            "leave_out": left_out,
            "ln_after": False,
            "ln_before": False,
            "non_linearity": hub_activations[spec["activation"]],
            "original_ln_after": True,
            "original_ln_before": False,
            "phm_layer": False,
            "reduction_factor": int(factor) if factor.is_integer() else factor,
            "residual_before_ln": True,
            "scaling": 1.0,
            "use_gating": False,
        },
        "hidden_size": shape.emb_dim,
        "model_class": "T5ForConditionalGeneration",
        "model_name": base_name,
        "model_type": "t5",
        "name": name,
        # Of the format; without one, activations have other names.
        "version": "adapters.1.3.0",
    }


def _left_out(points: Sequence[str], shape: ModelShape) -> list[int]:
    """Returns AdapterHub's numbers of layers without an adapter.

    Raises:
      CheckpointError: The stacks have different adapters.
    """
    on = {_OPTIONS[point] for point in points}
    left_out: list[int] = []
    for stack in ("encoder", "decoder"):
        possible = [point for point in _OPTIONS if point.startswith(f"{stack}/")]
        chosen = [point for point in points if point in possible]
        if not chosen:
            left_out += shape.layers(f"{stack}/mlp")
        elif {*chosen} != {point for point in possible if _OPTIONS[point] in on}:
            raise _no_place(
                f"points {', '.join(points)}",
                "adapters at the same sub-layers in encoder and decoder",
            )
    return left_out


def _no_place(feature: str, expected: str) -> errors.CheckpointError:
    return errors.CheckpointError(
        found=f"bottleneck adapters with {feature}",
        expected=f"{expected}, which AdapterHub's `adapters` can compute",
        do="Export it for transformers with gin/t5/export_bottleneck.gin",
    )


def _refused(of: str, wrong: Sequence[str]) -> errors.CheckpointError:
    needed = ", ".join(f"{name} {values[0]}" for name, values in _NEEDED.items())
    return errors.CheckpointError(
        found=f"{of} with {', '.join(wrong[:8])}",
        expected="bottlenecks of a T5 as ours are, such as those of DoubleSeqBnConfig"
        f" (Houlsby): {needed}, non_linearity one of {', '.join(_ACTIVATIONS)}",
        do="Train another with those settings: the adapter computes what none of ours"
        " can",
    )
