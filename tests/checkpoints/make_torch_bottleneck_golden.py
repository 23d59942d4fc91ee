"""Lets torch compute with exported bottleneck experts by their loader file.

    pip install -e . torch==2.13.0 transformers==5.24.0
    PYTHONPATH=. python tests/checkpoints/make_torch_bottleneck_golden.py

writes to torch_golden/<case>/ what `elm_convert` exports of each expert of
`bottleneck_sample`, and logits.npy, float32 [2, 4, 64], which transformers computes
with that folder attached by its loader. The loader's hash goes to loader.sha256. Run
it again when the loader, the cases or the sample change.
"""

import hashlib
import importlib.util
import shutil
import sys

import numpy as np

from tests.checkpoints import bottleneck_sample, make_peft_golden


def loader(folder):
    """Returns the module in the file that lies in an exported folder."""
    spec = importlib.util.spec_from_file_location(
        "elm_expert", folder / "elm_expert.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def logits(folder):
    """Returns what transformers computes with an exported folder."""
    model = make_peft_golden.make_base()
    loader(folder).attach(model)
    return make_peft_golden.logits(model)


def main():
    for case, (spec, parts) in bottleneck_sample.CASES.items():
        folder = bottleneck_sample.FOLDER / case
        shutil.rmtree(folder, ignore_errors=True)
        bottleneck_sample.export(case, folder)
        computed = logits(folder)
        np.save(folder / "logits.npy", computed)
        digest = hashlib.sha256((folder / "elm_expert.py").read_bytes()).hexdigest()
        (bottleneck_sample.FOLDER / "loader.sha256").write_text(f"{digest}\n")
        (folder / "elm_expert.py").unlink()
        expected = bottleneck_sample.logits(spec, bottleneck_sample.draw(spec, parts))
        error = np.abs(computed - expected).max() / np.abs(expected).max()
        sys.stdout.write(f"{folder}: {error:.1e} of the largest logit\n")


if __name__ == "__main__":
    main()
