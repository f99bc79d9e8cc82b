"""Raw shards → filtered shards: rules, duplicates, balancing, decontamination, previews."""
