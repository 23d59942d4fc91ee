"""Lets PEFT compute with two LoRAs of a small T5 at once; needs torch.

    pip install -e . torch==2.13.0 transformers==5.23.0 peft==0.21.0
    PYTHONPATH=. python tests/checkpoints/make_peft_merge_golden.py

The LoRAs have the same targets, and other ranks and scales, one of them by layer and
rank-stabilised. Writes them to peft_merge_golden/<name>/ beside it, and the logits with
both active, the sum of what they do, to sum.npy, float32 [2, 4, 64].
"""

import pathlib
import sys

import numpy as np

from tests.checkpoints import make_peft_golden

FOLDER = pathlib.Path(__file__).with_name("peft_merge_golden")
ADAPTERS = {
    "one": {"r": 4, "lora_alpha": 8, "target_modules": ["q", "v"]},
    "other": {
        "r": 3,
        "lora_alpha": 5,
        "use_rslora": True,
        "target_modules": ["q", "v"],
        "rank_pattern": {r"block\.0\..*\.q": 2},
        "alpha_pattern": {r"decoder\..*\.v": 7},
    },
}


def main():
    import peft
    import torch

    settings = {name: peft.LoraConfig(**it) for name, it in ADAPTERS.items()}
    model = peft.get_peft_model(
        make_peft_golden.make_base(), settings["one"], adapter_name="one"
    ).eval()
    model.add_adapter("other", settings["other"])
    model.base_model.set_adapter([*ADAPTERS])
    rng = np.random.default_rng(2)
    for name, parameter in sorted(model.named_parameters()):
        if "lora_" in name:
            drawn = rng.normal(size=tuple(parameter.shape), scale=0.3)
            parameter.data = torch.tensor(drawn, dtype=torch.float32)
    model.save_pretrained(FOLDER, selected_adapters=[*ADAPTERS])
    for text in FOLDER.rglob("README.md"):
        text.unlink()
    np.save(FOLDER / "sum.npy", make_peft_golden.logits(model))
    sys.stdout.write(f"{FOLDER}\n")


if __name__ == "__main__":
    main()
