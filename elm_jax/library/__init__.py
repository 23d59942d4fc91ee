"""Catalogue of experts, embedders, index and retrieval."""
