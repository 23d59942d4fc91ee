"""Decodes with transformers for decode_benchmark.py; needs torch, not elm_jax.

Reads the weights' path and the shape from the command line, then a request per line:
inputs and number of beams; answers with a line of tokens and seconds.
"""

import json
import logging
import sys
import time

import numpy as np
import torch
import transformers


def load(path, shape):
    options = transformers.T5Config(
        vocab_size=shape["vocab_size"],
        d_model=shape["emb_dim"],
        d_kv=shape["head_dim"],
        d_ff=shape["mlp_dim"],
        num_layers=shape["num_encoder_layers"],
        num_decoder_layers=shape["num_decoder_layers"],
        num_heads=shape["num_heads"],
        feed_forward_proj="gated-gelu",
        tie_word_embeddings=False,
        decoder_start_token_id=0,
    )
    model = transformers.T5ForConditionalGeneration(options).eval()
    untied = torch.nn.Parameter(torch.empty_like(model.lm_head.weight))
    model.lm_head.weight = untied
    weights = model.state_dict()
    with np.load(path) as file, torch.no_grad():
        for name in file:
            weights[name].copy_(torch.tensor(file[name]))
    return model


def main():
    transformers.logging.set_verbosity_error()
    logging.disable(logging.WARNING)
    path, shape = sys.argv[1], json.loads(sys.argv[2])
    model, length = load(path, shape), shape["length"]
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    print(json.dumps(versions | {"threads": torch.get_num_threads()}), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        ids = torch.tensor(request["inputs"])
        before = time.perf_counter()
        with torch.inference_mode():
            tokens = model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=length,
                do_sample=False,
                num_beams=request["num_beams"],
                early_stopping="never" if request["num_beams"] > 1 else False,
            )[:, 1:].numpy()
        secs = time.perf_counter() - before
        tokens = np.pad(tokens, ((0, 0), (0, length - tokens.shape[1])))
        has_ended = np.cumsum(tokens == 1, axis=1) - (tokens == 1) > 0
        tokens = np.where(has_ended, 0, tokens)
        print(json.dumps({"tokens": tokens.tolist(), "secs": secs}), flush=True)


if __name__ == "__main__":
    main()
