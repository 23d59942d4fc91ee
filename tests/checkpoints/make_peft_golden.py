"""Lets PEFT write adapters of a small T5, and computes with them; needs torch.

    pip install -e . torch==2.13.0 transformers==5.23.0 peft==0.21.0
    PYTHONPATH=. python tests/checkpoints/make_peft_golden.py

writes adapter_config.json and adapter_model.safetensors to peft_golden/<case>/ beside
it, and logits.npy, float32 [2, 4, 64]. Run it again when PEFT changes its files, or
when the cases or the sample change.
"""

import pathlib
import sys

import numpy as np

CASES = {
    "lora": {"r": 4, "lora_alpha": 8, "target_modules": ["q", "v"]},
    "lora_patterns": {
        "r": 4,
        "lora_alpha": 6,
        "lora_dropout": 0.1,
        "use_rslora": True,
        "target_modules": ["q", "o", "wi_0", "wo"],
        "exclude_modules": ["EncDecAttention.o"],
        "rank_pattern": {r"decoder\..*\.wo": 2, r"block\.0\..*\.q": 3},
        "alpha_pattern": {"o": 5},
    },
    "lora_layers": {
        "r": 2,
        "lora_alpha": 2,
        "target_modules": ["k", "wi_1"],
        "layers_to_transform": [1],
    },
    "lora_regex": {
        "r": 2,
        "lora_alpha": 3,
        "target_modules": r".*decoder\.block\.\d+\.layer\.1\..*\.(q|k|v|o)",
    },
    "ia3": {"target_modules": ["k", "v", "wo"], "feedforward_modules": ["wo"]},
    "ia3_mt5": {"target_modules": ["k", "v", "wi_1"], "feedforward_modules": []},
}


def make_base():
    """Returns Hugging Face's model of the sample."""
    import torch
    import transformers

    from tests.checkpoints import peft_sample

    shape = peft_sample.CONFIG
    settings = transformers.T5Config(
        vocab_size=shape.vocab_size,
        d_model=shape.emb_dim,
        num_heads=shape.num_heads,
        d_kv=shape.head_dim,
        d_ff=shape.mlp_dim,
        num_layers=shape.num_encoder_layers,
        num_decoder_layers=shape.num_decoder_layers,
        feed_forward_proj="gated-gelu",
        decoder_start_token_id=0,
        dropout_rate=0.0,
    )
    model = transformers.T5ForConditionalGeneration(settings).eval()
    # transformers 5 ties all until it reads a file; T5 1.1 ties nothing.
    head = model.lm_head.weight.detach().clone()
    model.lm_head.weight = torch.nn.Parameter(head)
    model.config.tie_word_embeddings = False
    named = dict(model.named_parameters())
    drawn = peft_sample.weights({name: tuple(p.shape) for name, p in named.items()})
    for name, parameter in named.items():
        parameter.data = torch.tensor(drawn[name])
    model.encoder.embed_tokens = model.decoder.embed_tokens = model.shared
    # As for tied embeddings; transformers 4 asks tie_word_embeddings instead.
    model.config.scale_decoder_outputs = False
    return model


def logits(model):
    """Returns the logits of the sample's tokens, float32 [2, 4, 64]."""
    import torch

    from tests.checkpoints import peft_sample

    inputs = torch.tensor(peft_sample.INPUTS)
    with torch.no_grad():
        computed = model(
            input_ids=inputs,
            attention_mask=(inputs != 0).long(),
            decoder_input_ids=torch.tensor(peft_sample.TARGETS),
        ).logits
    return computed.numpy()


def make(case):
    """Returns PEFT's model of a case, adapters drawn by NumPy."""
    import peft
    import torch

    kind = peft.IA3Config if case.startswith("ia3") else peft.LoraConfig
    model = peft.get_peft_model(make_base(), kind(**CASES[case])).eval()
    rng = np.random.default_rng(1)
    for _, parameter in sorted(model.named_parameters()):
        if parameter.requires_grad:
            drawn = rng.normal(size=tuple(parameter.shape), scale=0.5)
            parameter.data = torch.tensor(drawn, dtype=torch.float32)
    return model


def main():
    folder = pathlib.Path(__file__).with_name("peft_golden")
    for case in CASES:
        model = make(case)
        model.save_pretrained(folder / case)
        (folder / case / "README.md").unlink(missing_ok=True)
        np.save(folder / case / "logits.npy", logits(model))
    sys.stdout.write(f"{folder}\n")


if __name__ == "__main__":
    main()
