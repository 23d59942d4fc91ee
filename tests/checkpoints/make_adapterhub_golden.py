"""Lets AdapterHub's `adapters` write and read bottlenecks of a small T5; needs torch.

    pip install -e . torch==2.13.0 adapters==1.3.0
    PYTHONPATH=. python tests/checkpoints/make_adapterhub_golden.py

`adapters` 1.3.0 brings transformers 4.57. Writes to adapterhub_golden/<case>/ what
save_adapter writes, and logits.npy, float32 [2, 4, 64]; to refused/<case>/ settings of
adapters that ours cannot be; and to ours/ an export of ours, with what `adapters`
computes when it has loaded it. Run it again when `adapters` changes its files, or when
the cases or the sample change.
"""

import pathlib
import shutil
import sys

import numpy as np

FOLDER = pathlib.Path(__file__).with_name("adapterhub_golden")
# Fields of BnConfig.
_HOULSBY = {"mh_adapter": True, "output_adapter": True, "non_linearity": "swish"}
CASES = {
    "houlsby": {**_HOULSBY, "reduction_factor": 4},
    "cross": {
        **_HOULSBY,
        "non_linearity": "gelu_new",
        "reduction_factor": 3,
        "cross_adapter": True,
        "output_adapter": False,
        "scaling": 0.3,
        "leave_out": [1, 4],
    },
    "learned": {
        **_HOULSBY,
        "non_linearity": "relu",
        "reduction_factor": {"0": 2, "4": 8, "default": 4},
        "scaling": "learned",
        "residual_before_ln": False,
        "dropout": 0.1,
    },
    "channel": {
        **_HOULSBY,
        "non_linearity": "tanh",
        "mh_adapter": False,
        "reduction_factor": 0.5,
        "scaling": "channel",
        "leave_out": [0, 1],
    },
}
REFUSED = {
    "pfeiffer": ("SeqBnConfig", {}),
    "parallel": ("ParBnConfig", {}),
    "compacter": ("CompacterConfig", {"reduction_factor": 4}),
    "invertible": ("DoubleSeqBnInvConfig", {}),
    "lora": ("LoRAConfig", {}),
}


def start():
    """Returns the sample's base with places for adapters."""
    import adapters

    from tests.checkpoints import make_peft_golden

    model = make_peft_golden.make_base()
    adapters.init(model)
    return model


def make(case):
    """Returns the model of a case, adapters drawn by NumPy."""
    import adapters
    import torch

    model = start()
    model.add_adapter(case, config=adapters.BnConfig(**CASES[case]))
    model.set_active_adapters(case)
    rng = np.random.default_rng(3)
    for name, parameter in sorted(model.named_parameters()):
        if f".adapters.{case}." in name:
            drawn = rng.normal(size=tuple(parameter.shape), scale=0.4)
            parameter.data = torch.tensor(drawn, dtype=torch.float32)
    return model.eval()


def logits(model):
    from tests.checkpoints import make_peft_golden

    return make_peft_golden.logits(model)


def with_ours(folder):
    """Returns the logits of a model that has loaded an export of ours."""
    import safetensors.torch

    model = start()
    name = model.load_adapter(str(folder), use_safetensors=True, with_head=False)
    model.set_active_adapters(name)
    norms = safetensors.torch.load_file(folder / "layer_norms.safetensors")
    unknown = model.load_state_dict(norms, strict=False).unexpected_keys
    assert not unknown, unknown
    return logits(model.eval())


def main():
    import adapters

    from tests.checkpoints import bottleneck_sample

    shutil.rmtree(FOLDER, ignore_errors=True)
    (FOLDER / "refused").mkdir(parents=True)
    for case in CASES:
        model = make(case)
        has_head = case == "houlsby"
        place = str(FOLDER / case)
        model.save_adapter(place, case, use_safetensors=True, with_head=has_head)
        np.save(FOLDER / case / "logits.npy", logits(model))
    for case, (kind, options) in REFUSED.items():
        model = start()
        model.add_adapter(case, config=getattr(adapters, kind)(**options))
        place = FOLDER / "refused" / case
        model.save_adapter(str(place), case, use_safetensors=True, with_head=False)
        (place / "adapter.safetensors").unlink()
    folder = bottleneck_sample.export_to_hub("paper", FOLDER / "ours")
    computed = with_ours(folder)
    np.save(folder / "logits.npy", computed)
    spec, parts = bottleneck_sample.CASES["paper"]
    expected = bottleneck_sample.logits(spec, bottleneck_sample.draw(spec, parts))
    error = np.abs(computed - expected).max() / np.abs(expected).max()
    sys.stdout.write(f"ours: {error:.1e} of the largest logit\n")


if __name__ == "__main__":
    main()
