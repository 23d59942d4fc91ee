"""Compiles one program in a process of its own: JSON comes in, JSON goes out.

Started by `compiler.compile_program`, with the environment that plug-ins need.
"""

import contextlib
import dataclasses
import hashlib
import json
import pathlib
import sys
import time
from typing import Any

import jax

from elm_jax.compiling import roofline, targets, topology
from elm_jax.disk import files
from elm_jax.model import fused_attention
from elm_jax.runs.compiling import keeping, programs, result


def main() -> None:
    """Reads a request from standard input and prints what came of it as a line."""
    request = json.load(sys.stdin)
    target = targets.find(request["target"])
    program = programs.from_json(request["program"])
    if program.kind == "fleet step":
        target = target.one_host
    with keeping.into(request.get("keep_in", "")) as file_names:
        compiled = compile_here(program, target, text_path=request.get("text_path", ""))
    compiled = dataclasses.replace(compiled, saved_as=", ".join(file_names))
    sys.stdout.write(f"{json.dumps(result.to_json(compiled))}\n")


def compile_here(
    program: programs.Program, target: targets.Target, *, text_path: str = ""
) -> result.Compiled:
    """Returns what comes of compiling a program in this process.

    Args:
      program: What to compile.
      target: The accelerator to compile for.
      text_path: File that gets the compiled program's text; "" for none.
    """
    begun = time.monotonic()
    devices = topology.devices(target)[: program.devices.count]
    with _assumed_versions(target):
        lowered = programs.lower(program, devices)
    digest = hashlib.sha256(lowered.as_text().encode()).hexdigest()[:16]
    lowered_at = time.monotonic()
    facts: dict[str, Any] = {
        "lower_secs": lowered_at - begun,
        "program_hash": digest,
    }
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        text = f"{error}"
        if "out of memory" not in text and "RESOURCE_EXHAUSTED" not in text:
            raise
        secs = time.monotonic() - lowered_at
        return result.Compiled(
            out_of_memory=_memory_message(text), compile_secs=secs, **facts
        )
    secs = time.monotonic() - lowered_at
    text = compiled.as_text() or ""
    if text_path:
        files.write_text(pathlib.Path(text_path), text)
    return result.Compiled(
        memory=_memory(compiled),
        work=roofline.work_of(text, target),
        compile_secs=secs,
        **facts,
    )


def _assumed_versions(
    target: targets.Target,
) -> contextlib.AbstractContextManager[None]:
    """Returns a context in which code assumes the cuDNN version of a GPU as target.

    It does not ask a GPU, which need not be there.
    """
    if target.platform != "cuda":
        return contextlib.nullcontext()
    major, minor = topology.CUDNN_VERSION
    return fused_attention.assuming(cudnn_version=10_000 * major + 100 * minor)


def _memory(compiled: Any) -> result.Memory:
    stats = compiled.memory_analysis()
    return result.Memory(
        arguments=stats.argument_size_in_bytes,
        outputs=stats.output_size_in_bytes,
        aliased=stats.alias_size_in_bytes,
        temporaries=stats.temp_size_in_bytes,
        code=stats.generated_code_size_in_bytes,
    )


def _memory_message(text: str) -> str:
    """Returns what a compiler says of too little memory, in a line."""
    lines = [line.strip() for line in text.splitlines()]
    notable = [line for line in lines if "emory" in line or "exceed" in line.lower()]
    return (notable or lines)[0][:500]


if __name__ == "__main__":
    main()
