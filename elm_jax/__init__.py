"""Trainer, library and evaluator for expert language models in JAX."""

__version__ = "0.2.0.dev0"
