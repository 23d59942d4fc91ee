"""Programs of a tiny model."""

import dataclasses

from elm_jax.model import config, cost, decoding_spec
from elm_jax.peft import bottleneck, expert_parts
from elm_jax.runs.compiling import programs
from elm_jax.runs.placement import Devices
from elm_jax.training import optimizers

TINY = config.T5Config(
    vocab_size=64,
    emb_dim=32,
    num_heads=4,
    head_dim=8,
    mlp_dim=64,
    num_encoder_layers=2,
    num_decoder_layers=2,
    dropout_rate=0.1,
)
STEP = programs.Program(
    kind="step",
    model=TINY,
    adapter=bottleneck.Bottleneck(reduction_factor=4),
    batch=cost.BatchShape(batch_size=16, inputs_length=12, targets_length=8),
    devices=Devices(num_data=2, num_fsdp=2, num_model=2, axis_rules="fsdp_model"),
    trainable_pattern=expert_parts.PROMPT_EXPERT,
    optimizer=optimizers.AdamW(),
    train_steps=10,
)
FLEET = dataclasses.replace(
    STEP,
    kind="fleet step",
    devices=Devices(num_data=4, num_model=2, axis_rules="data_model"),
    num_slots=8,
    num_lanes=2,
)
RANKING = dataclasses.replace(
    STEP, kind="ranking", trainable_pattern="", optimizer=None, num_choices=3
)
DECODING = dataclasses.replace(
    RANKING, kind="decoding", decoding=decoding_spec.BeamSearch(num_beams=2)
)
