"""Flags, gin and thin mains."""
