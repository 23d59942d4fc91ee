"""The formats' names with their shares of all inputs; slow ones get fewer."""

GROUPS = {
    "rows": {"csv": 3, "jsonl": 3, "jsonl_gz": 2, "archive": 2, "yaml": 2, "jinja": 2},
    "records": {
        **{"manifest": 2, "catalogue": 2, "index": 2, "cache": 2},
        **{"results": 1, "old_results": 1, "kept_rows": 1, "kept_words": 1},
        **{"metrics": 1, "votes": 1},
    },
    "weights": {
        **{"orbax": 1, "orbax_streamed": 1, "safetensors": 1, "hf_config": 1},
        **{"peft": 1, "peft_config": 1, "adapterhub": 1, "adapterhub_config": 1},
    },
    "foreign": {"sentencepiece": 1, "tokenizer": 1, "torch": 1},
    "tables": {"parquet": 2, "p3_parquet": 1, "p3_records": 1},
    "stores": {
        **{"t5x": 1, "t5x_orbax": 1, "t5x_settings": 1},
        **{"bucket": 1, "bucket_server": 1},
    },
}
SHARES = {name: share for group in GROUPS.values() for name, share in group.items()}
