"""Raw shards → scores: what frozen models say of every pair, as columns written once, so that filters only compare."""
