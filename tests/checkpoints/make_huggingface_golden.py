"""Lists what transformers writes for a small T5 1.1; needs torch and transformers.

    python tests/checkpoints/make_huggingface_golden.py

writes huggingface_golden.json beside it: tensors with shapes, and config.json. Run it
again when transformers changes what it writes; made with 5.23.0.
"""

import json
import pathlib
import tempfile

SHAPE = {
    "vocab_size": 11,
    "d_model": 6,
    "num_heads": 2,
    "d_kv": 4,
    "d_ff": 10,
    "num_layers": 2,
    "num_decoder_layers": 3,
    "feed_forward_proj": "gated-gelu",
    "tie_word_embeddings": False,
    "decoder_start_token_id": 0,
}


def main():
    import safetensors
    import transformers

    model = transformers.T5ForConditionalGeneration(transformers.T5Config(**SHAPE))
    head = model.shared.weight.detach().clone() + 1  # equal ones would be saved once
    model.lm_head.weight = type(model.lm_head.weight)(head)
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        settings = json.loads((pathlib.Path(folder) / "config.json").read_text())
        file = safetensors.safe_open(f"{folder}/model.safetensors", "pt")
        shapes = {name: list(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    golden = {"config": settings, "shapes": shapes}
    path = pathlib.Path(__file__).with_name("huggingface_golden.json")
    path.write_text(json.dumps(golden, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
