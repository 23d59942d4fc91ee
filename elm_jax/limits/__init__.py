"""Strangers' templates and files are read in processes with limits."""
