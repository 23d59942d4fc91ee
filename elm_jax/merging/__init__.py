"""Merge methods as pure functions over parameter trees."""
