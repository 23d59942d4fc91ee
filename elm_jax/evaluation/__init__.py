"""Rank classification, generation, metrics, result rows, statistics."""
