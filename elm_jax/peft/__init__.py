"""Adapters and their place in the model."""
