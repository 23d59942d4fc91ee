"""A work folder with two bases, imported experts, another run's, and copies."""

import dataclasses
import shutil

from elm_jax import trees
from elm_jax.checkpoints import experts, manifest
from elm_jax.runs import convert_bottlenecks, convert_experts, export
from tests.checkpoints import (
    bottleneck_sample,
    make_adapterhub_golden,
    peft_sample,
)

SHAPES = peft_sample.shapes()
BASE, BASE_DIR = "{MODEL_DIR}/base", {"initial_checkpoint_path": "{MODEL_DIR}/base"}


def save_base(folder, scale=1.0):
    params = trees.unflatten(
        {n: scale * a for n, a in trees.flatten(peft_sample.base(SHAPES)).items()}
    )
    info = manifest.Manifest(
        name=folder.name,
        kind="base",
        base_name=folder.name,
        base_fingerprint=trees.fingerprint(params),
        model=dataclasses.asdict(peft_sample.CONFIG),
        trainable_pattern=".*",
    )
    experts.save_expert(folder, params, info)


def peft(name):
    return str(peft_sample.FOLDER / name)


def hub(name):
    return str(make_adapterhub_golden.FOLDER / name)


def prepare(folder):
    save_base(folder / "base")
    save_base(folder / "other_base", scale=0.5)
    convert_experts.ImportPeft(
        model_dir=str(folder),
        source_paths=(peft("lora"), peft("lora_patterns")),
        **BASE_DIR,
    ).run()
    convert_bottlenecks.ImportAdapterHub(
        model_dir=str(folder), source_paths=(hub("learned"), hub("channel")), **BASE_DIR
    ).run()
    shutil.copytree(hub("learned"), folder / "runs" / "houlsby")
    bottleneck_sample.save(folder / "bottlenecks/one", folder / "base", "paper")
    bottleneck_sample.save(folder / "bottlenecks/two", folder / "base", "sum")
    # Another run's folder of the same name, as PEFT's `checkpoint-500` are.
    shutil.copytree(peft("lora_patterns"), folder / "runs" / "lora")
    hf = {"model_dir": str(folder), "expert_path": BASE}
    export.ExportHuggingFace(**hf, export_dir="{MODEL_DIR}/hf").run()
    half = {**hf, "expert_path": "{MODEL_DIR}/other_base"}
    export.ExportHuggingFace(**half, export_dir="{MODEL_DIR}/hf").run()
