"""T5-XL as the paper trained it."""

from elm_jax.model import config

XL = config.T5Config(
    vocab_size=32128,
    emb_dim=2048,
    num_heads=32,
    head_dim=64,
    mlp_dim=5120,
    num_encoder_layers=24,
    num_decoder_layers=24,
    dtype="bfloat16",
    remat="layer",
)
NUM_PROMPT = 25_618_432  # adapters and layer norms, as the paper counts
