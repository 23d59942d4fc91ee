"""One frozen dataclass per run: fields are the configuration, run() joins parts."""
