"""From a task's name to batches: sources, templates, token caches, batches."""
