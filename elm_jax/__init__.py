"""Trainer, library and evaluator for expert language models in JAX."""
