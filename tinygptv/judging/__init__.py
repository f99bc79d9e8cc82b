"""Raw shards → scores: frozen models rate every pair once, as columns, so that filters only compare."""
