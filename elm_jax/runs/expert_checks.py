"""Whether experts fit a base and a vocabulary, told from their manifests and shapes.

Asked before hours of scoring and by `--dry_run`; no parameter is read.
"""

import collections
import dataclasses
import json
import pathlib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from elm_jax import errors, trees
from elm_jax.checkpoints import experts, manifest, streaming, tensors
from elm_jax.data import vocabulary as data_vocabulary
from elm_jax.model import config, int8_kernels, t5
from elm_jax.peft import effects, expert_parts
from elm_jax.runs import bases, vocabularies

# Fields of T5Config that say how a function is computed, and not which.
_COMPUTATION = (
    "dtype",
    "dropout_rate",
    "scan_unroll",
    "remat",
    "attention",
    "attention_dropout",
    "logits_chunks",
)


def check(
    folders: Iterable[pathlib.Path],
    *,
    base_dir: pathlib.Path,
    vocabulary: data_vocabulary.SentencePiece,
) -> None:
    """Raises an error unless every expert can be put on a base.

    Args:
      folders: The experts' folders.
      base_dir: Folder of the base.
      vocabulary: The vocabulary of the tokens that they will read.

    Raises:
      CheckpointError: A manifest or its tensors are missing or do not fit the model.
      FingerprintError: An expert is of another base or vocabulary.
    """
    base = bases.read_manifest(base_dir)
    vocabularies.check(base, vocabulary)
    for folder in folders:
        leaves, info = streaming.open_expert(folder)
        with errors.during(f"looking at {folder}"):
            bases.check_fits(info, base)
            check_same_function(info, base)
            vocabularies.check(info, vocabulary)
            _check_tensors(leaves, info, base)


def check_tensors(folder: pathlib.Path, base: manifest.Manifest) -> None:
    """Raises CheckpointError unless an expert has the tensors of its manifest.

    Such as matrices of the rank that its adapters have there; no parameter is read.

    Args:
      folder: The expert's folder.
      base: The manifest of its base.
    """
    leaves, info = streaming.open_expert(folder)
    with errors.during(f"looking at {folder}"):
        _check_tensors(leaves, info, base)


def _check_tensors(
    leaves: Mapping[str, tensors.Leaf], info: manifest.Manifest, base: manifest.Manifest
) -> None:
    check_held(leaves, info)
    model = bases.build_model(bases.model_config(base), bases.adapter_spec(info))
    label = f"expert {info.name!r}"
    expected = expert_parts.part(
        t5.param_shapes(model), info.trainable_pattern, of=label
    )
    experts.check_same_tensors(trees.unflatten(leaves), expected, of=label)


def check_held(names: Iterable[str], info: manifest.Manifest) -> None:
    """Raises CheckpointError if an expert's own matrices would be rounded to int8.

    Args:
      names: Of its parameters.
      info: Its manifest, whose model says how its base is held.
    """
    wrong = [*filter(int8_kernels.is_held, names)]
    if wrong and bases.model_config(info).base_dtype:
        raise errors.CheckpointError(
            found=f"expert {info.name!r} of a base that is held as int8, with"
            f" {len(wrong)} matrices of its own, such as {wrong[0]}",
            expected="an expert of adapters and norms on such a base",
            do="Use it with the same base in bfloat16: import that without base_dtype",
        )


def check_alike(
    infos: Sequence[manifest.Manifest],
    base: manifest.Manifest | None = None,
    *,
    pads: bool = False,
) -> None:
    """Raises an error unless experts can be merged.

    Args:
      infos: The experts'.
      base: Their base's, for its vocabulary.
      pads: Whether adapters may differ in width, as they will be padded; see
        `effects.common`.

    Raises:
      ConfigError: They are of several kinds, parts or adapters: equal shapes alone do
        not make two adapters compute alike.
      FingerprintError: They were trained on several vocabularies.
    """
    manifests = [*infos] if base is None else [base, *infos]
    by_fingerprint = {
        i.vocabulary["fingerprint"]: i.name for i in manifests if i.vocabulary
    }
    if len(by_fingerprint) > 1:
        raise errors.FingerprintError(
            found=f"experts of different vocabularies: {by_fingerprint}",
            expected="one vocabulary",
            do="Merge experts that were trained on the same tokens",
        )
    if pads and infos and all(info.adapter for info in infos):
        infos = in_one_spec(infos)
    kinds: dict[str, str] = {}
    # A merge may be a part of another merge: its parameters are of its experts' kind.
    trained = next((info.kind for info in infos if info.kind != "merged"), "merged")
    for info in infos:
        trained_kind = trained if info.kind == "merged" else info.kind
        kind = [trained_kind, info.trainable_pattern, info.adapter]
        if info.base_dtype:
            kind.append(f"on a base held as {info.base_dtype}")
        kinds.setdefault(json.dumps(kind, sort_keys=True), info.name)
    if len(kinds) > 1:
        kinds_text = "; ".join(f"{name}: {kind}" for kind, name in kinds.items())
        raise errors.ConfigError(
            found=f"experts of different kinds: {kinds_text}",
            expected="one kind, one trainable pattern, one adapter spec: a parameter of"
            " one kind has no meaning in another, and equal shapes do not make two"
            " adapters compute alike",
            do="Merge prompt experts with prompt experts, dataset with dataset, or fold"
            " LoRAs into whole models first",
        )


def in_one_spec(infos: Sequence[manifest.Manifest]) -> list[manifest.Manifest]:
    """Returns the manifests with the one spec in which all adapters can be written.

    Args:
      infos: One or more, of experts with adapters.

    Raises:
      ConfigError: They differ in more than in width; see `effects.common`.
    """
    specs = [spec for info in infos if (spec := bases.adapter_spec(info))]
    spec_fields = bases.describe(effects.common(specs))
    return [dataclasses.replace(info, adapter=spec_fields) for info in infos]


def check_has_adapters(info: manifest.Manifest) -> None:
    """Raises ConfigError for an expert without adapters, which cannot be routed."""
    if info.adapter is None:
        raise errors.ConfigError(
            found=f"{info.kind} expert {info.name!r}, which has no adapters",
            expected="experts with adapters: tokens are routed among these",
            do="Use a library of prompt experts, or merge or retrieve these experts",
        )


def check_has_norms(info: manifest.Manifest) -> None:
    """Raises ConfigError for an expert without layer norms of its own."""
    if not re.search(info.trainable_pattern, "encoder/encoder_norm/scale"):
        raise errors.ConfigError(
            found=f"{info.kind} expert {info.name!r}, which has no layer norms",
            expected="experts with layer norms, such as prompt experts",
            do="Leave the norms out: these experts have those of the base",
        )


def check_joins(info: manifest.Manifest, base: manifest.Manifest) -> None:
    """Raises an error unless an expert and its base can be made one model of floats.

    Raises:
      CheckpointError: It was trained in another model.
      ConfigError: The expert or the base is of matrices that are held as int8.
      FingerprintError: It was trained on another base.
    """
    bases.check_fits(info, base)
    if base_dtype := base.base_dtype or info.base_dtype:
        raise errors.ConfigError(
            found=f"expert {info.name!r} on a base that is held as {base_dtype}",
            expected="an expert and a base whose base_dtype is '': a whole model has"
            " other matrices than those that the expert was trained with",
            do="Use the expert with its base; or train it on a base in bfloat16",
        )
    check_same_function(info, base)


def check_same_function(info: manifest.Manifest, base: manifest.Manifest) -> None:
    """Raises CheckpointError if an expert was trained in another model than its base.

    The same parameters give another function where, say, relative positions are cut
    off at another distance.
    """
    expert_fields, base_fields = shape_fields(info), shape_fields(base)
    wrong = [
        name for name in base_fields if expert_fields.get(name) != base_fields[name]
    ]
    if wrong:
        raise errors.CheckpointError(
            found=f"expert {info.name!r} with "
            + ", ".join(f"{name} = {expert_fields.get(name)!r}" for name in wrong),
            expected=f"the model of base {base.name!r}: "
            + ", ".join(f"{name} = {base_fields[name]!r}" for name in wrong),
            do="Name the base that it was trained on",
        )


def describe_lengths(
    infos: Iterable[manifest.Manifest], lengths: Mapping[str, int]
) -> str:
    """Returns how many experts were trained at other lengths than these; "" for none.

    That is no error, as relative positions have no end, but worth knowing.

    Args:
      infos: The experts'.
      lengths: Tokens of inputs and targets by which they are to be scored.
    """
    counts: collections.Counter[str] = collections.Counter()
    for info in infos:
        tokens = info.training.get("tokens", {})  # release 0.1 kept none
        trained_at = tokens.get("feature_lengths", lengths)
        if dict(trained_at) != dict(lengths):
            counts[json.dumps(trained_at)] += 1
    return "; ".join(
        f"{count} experts were trained at {other_lengths}, and are scored at"
        f" {json.dumps(dict(lengths))}"
        for other_lengths, count in counts.items()
    )


def shape_fields(info: manifest.Manifest) -> dict[str, Any]:
    """Returns the fields of a model's record that decide the model's function."""
    whole = config.completed(config.T5Config, info.model)
    fields = {n: v for n, v in whole.items() if n not in _COMPUTATION}
    return json.loads(json.dumps(fields))  # lists for tuples, as from a file
