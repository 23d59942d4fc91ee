"""Experts and train states on disk; weights of other programs."""
