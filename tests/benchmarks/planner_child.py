"""What a GPU's compiler lays out in memory, without waiting for its machine code.

Reads a request like that of `elm_jax.runs.compiling.child` and answers like it. The
compiler writes down the optimised program and how it lays out buffers, and then makes
code of it, which takes longer than all before and changes no byte: this process ends
in between. Its numbers for a small training step were those of the whole compilation.
"""

import json
import os
import pathlib
import re
import shutil
import sys
import tempfile
import threading
import time

ENDING = "_gpu_after_optimizations-buffer-assignment.txt"
PROGRAM_ENDING = "_gpu_after_optimizations.txt"


def main():
    """Prints what came of a request on standard input."""
    folder = pathlib.Path(tempfile.mkdtemp(prefix="elm_jax_buffers_"))
    os.environ["XLA_FLAGS"] = f"--xla_dump_to={folder} --xla_dump_hlo_as_text"
    from elm_jax.compiling import roofline, targets, topology
    from elm_jax.runs.compiling import programs, result

    request = json.load(sys.stdin)
    target = targets.find(request["target"])
    program = programs.from_json(request["program"])
    devices = topology.devices(target)[: program.devices.count]
    begun = time.monotonic()
    lowered = programs.lower(program, devices)
    lowered_at = time.monotonic()
    answer_to = os.dup(sys.stdout.fileno())

    def watch():
        while not (written := [*folder.glob(f"*{ENDING}")]):
            time.sleep(0.5)
        last = -1
        while last != (size := written[0].stat().st_size) or not size:
            last = size
            time.sleep(1)
        program_path = f"{written[0]}".replace(ENDING, PROGRAM_ENDING)
        answer = result.Compiled(
            memory=memory_of(written[0].read_text()),
            work=roofline.work_of(pathlib.Path(program_path).read_text(), target),
            lower_secs=lowered_at - begun,
            compile_secs=time.monotonic() - lowered_at,
        )
        os.write(answer_to, f"{json.dumps(result.to_json(answer))}\n".encode())
        shutil.rmtree(folder, ignore_errors=True)
        os._exit(0)

    threading.Thread(target=watch, daemon=True).start()
    lowered.compile()
    time.sleep(60)
    sys.exit("the compiler wrote no buffers")


def memory_of(text):
    """Returns the bytes of an assignment of buffers, by use."""
    from elm_jax.runs.compiling import result

    sizes = dict.fromkeys(("arguments", "outputs", "aliased", "temporaries"), 0)
    for size, description in re.findall(
        r"^allocation \d+: size (\d+), (.*)$", text, re.M
    ):
        is_result = "maybe-live-out" in description
        if "parameter" in description:
            sizes["arguments"] += int(size)
            sizes["aliased"] += is_result * int(size)
        if is_result:
            sizes["outputs"] += int(size)
        elif "preallocated-temp" in description:
            sizes["temporaries"] += int(size)
    return result.Memory(code=0, **sizes)


if __name__ == "__main__":
    main()
