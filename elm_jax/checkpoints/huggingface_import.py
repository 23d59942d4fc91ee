"""From an opened model folder of Hugging Face to the leaves of our tree."""

from collections.abc import Collection, Iterable, Mapping
from typing import Any

import numpy as np

from elm_jax import errors, trees
from elm_jax.checkpoints import (
    experts,
    huggingface,
    huggingface_config,
    huggingface_files,
    huggingface_rules,
    tensors,
)
from elm_jax.checkpoints.tensors import Leaf, Tensor
from elm_jax.types import Params

_SHARED = huggingface.place(huggingface.EMBEDDING).name
_LM_HEAD = huggingface.place(huggingface.LOGITS).name


def model_fields(
    model: huggingface_files.Model, ignored_fields: Collection[str] = ()
) -> dict[str, Any]:
    """Returns the fields of T5Config, read from the configuration and the tensors.

    Whether the embedding serves as output layer is decided by what the file holds and
    checked against the configuration.

    Args:
      model: Opened.
      ignored_fields: Names of fields that no T5 has and that may be ignored.

    Raises:
      CheckpointError: It is no T5 that our network can compute, or what the file and
        the configuration say of the output layer is ambiguous.
    """
    embedding = model.tensors.get(_SHARED)
    if embedding is None or len(embedding.shape) != 2:
        raise errors.CheckpointError(
            found=f"no matrix {_SHARED} among {len(model.tensors)} tensors",
            expected="the embedding of a T5",
            do="Use the folder of a T5ForConditionalGeneration",
        )
    fields = huggingface_config.to_fields(
        model.settings,
        embedding.shape[0],
        generation=model.generation,
        ignored_fields=ignored_fields,
    )
    return fields | {"logits_via_embedding": _is_tied(model)}


def open_leaves(
    model: huggingface_files.Model, expected: Params, *, of: str
) -> dict[str, Leaf]:
    """Returns the leaves of our tree, not in memory yet.

    Args:
      model: Opened.
      expected: Shapes of the network of `model_fields`, layers stacked.
      of: What the folder is, for the message.

    Raises:
      CheckpointError: Tensors are missing, extra or misshapen; all are named.
    """
    places, shapes = {}, {}
    for name, leaf in tensors.plain_shapes(trees.flatten(expected)).items():
        place = places[name] = huggingface.place(name)
        shape = leaf.shape[::-1] if place.is_transposed else leaf.shape
        shapes[place.name] = tensors.ShapeOnly(shape)
    their_tensors = dict(model.tensors)
    for name in ignored(their_tensors):
        del their_tensors[name]
    if _LM_HEAD not in shapes:
        their_tensors.pop(_LM_HEAD, None)  # `_is_tied` compared it with the embedding
    experts.check_same_tensors(their_tensors, shapes, of=of)
    plain = {}
    for name, place in places.items():
        tensor = their_tensors[place.name]
        plain[name] = tensors.transposed(tensor) if place.is_transposed else tensor
    return tensors.stack(plain)


def ignored(names: Iterable[str]) -> list[str]:
    """Returns which tensors no T5 reads: copies of the embedding, and an old table."""
    unread = (*huggingface.EMBEDDING_COPIES, huggingface.UNREAD)
    return [name for name in unread if name in names]


def notes(
    model: huggingface_files.Model, ignored_fields: Collection[str] = ()
) -> list[str]:
    """Returns lines about what the folder holds and an import does not take over."""
    tensors_left = ignored(model.tensors)
    fields_left = sorted(set(ignored_fields) & model.settings.keys())
    lines = []
    if tensors_left:
        lines.append(f"not read, as no T5 reads them: {', '.join(tensors_left)}")
    if fields_left:
        lines.append(f"ignored, as ignored_fields says: {', '.join(fields_left)}")
    for file, content, names in (
        ("config.json", model.settings, huggingface_rules.not_taken_over),
        (
            huggingface_files.GENERATION,
            model.generation,
            huggingface_rules.unread_generation,
        ),
    ):
        if unread_names := names(content):
            unread = ", ".join(
                # The old T5s have a page of settings by task.
                name if isinstance(content[name], dict) else f"{name} = {content[name]}"
                for name in unread_names
            )
            lines.append(
                f"not taken over from {file}, as runs say how answers are written:"
                f" {unread}"
            )
    return lines


def _is_tied(model: huggingface_files.Model) -> bool:
    for name in huggingface.EMBEDDING_COPIES:
        if name in model.tensors and not _are_equal(model.tensors, name, _SHARED):
            raise _ambiguous(f"{name} differs from {_SHARED}")
    settings = model.settings
    scaled = huggingface_config.is_scaled(settings)
    if scaled and settings.get("tie_word_embeddings") is False:
        raise _ambiguous("scale_decoder_outputs true with tie_word_embeddings false")
    if _LM_HEAD not in model.tensors:
        if scaled is False:
            raise _ambiguous(f"no {_LM_HEAD}, but logits that are not scaled")
        return True
    if scaled is False:
        return False
    if _are_equal(model.tensors, _LM_HEAD, _SHARED):
        return True
    raise _ambiguous(f"{_LM_HEAD} differs from {_SHARED}, but logits are scaled")


def _are_equal(their_tensors: Mapping[str, Tensor], first: str, second: str) -> bool:
    if their_tensors[first][:2] != their_tensors[second][:2]:
        return False
    return np.array_equal(their_tensors[first].read(), their_tensors[second].read())


def _ambiguous(problem: str) -> errors.CheckpointError:
    return errors.CheckpointError(
        found=f"{problem} by config.json (model_type, tie_word_embeddings, "
        "scale_decoder_outputs)",
        expected=f"either {_LM_HEAD} and tie_word_embeddings false (T5 1.1), or "
        "no such tensor and tie_word_embeddings true (T5 1.0)",
        do="Correct tie_word_embeddings in config.json to what the model was "
        "trained with, and remove scale_decoder_outputs",
    )
