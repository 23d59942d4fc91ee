"""Merge methods: values that make one parameter tree of several."""
