"""The pocket world: word tables, rows and prose that are a function of a seed."""
