"""From source to batch: read tables, fetch, filter, mix, tokenize. One module per step, in that order."""
