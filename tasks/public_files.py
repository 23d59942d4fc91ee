"""Parsers of public files."""

from collections.abc import Mapping

from elm_jax.data import sources

FILES: Mapping[str, sources.FileRows] = {}
