"""Mesh, logical axis rules, placement of arrays."""
