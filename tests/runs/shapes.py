"""The shape of the smallest base, as bindings of gin."""

SHAPE = (
    "config.T5Config.emb_dim = 16",
    "config.T5Config.num_heads = 2",
    "config.T5Config.head_dim = 8",
    "config.T5Config.mlp_dim = 16",
    "config.T5Config.num_encoder_layers = 1",
    "config.T5Config.num_decoder_layers = 1",
)
