"""From source to batch: read tables, fetch, filter, mix, tokenize; one sub-package per step."""
