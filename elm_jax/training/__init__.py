"""Optimiser, state, pure step, loop and hooks."""
