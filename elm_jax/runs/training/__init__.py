"""One training, from what was asked for to finished experts in their folders."""
