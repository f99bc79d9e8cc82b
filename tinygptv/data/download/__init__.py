"""A source's tables → raw shards, and the ledger that accounts for every row."""
