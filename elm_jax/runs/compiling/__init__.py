"""Compiles the programs of a run for an accelerator that need not be here."""
