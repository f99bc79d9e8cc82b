"""WebDataset shards and their sidecars: writing, reading, and access on S3."""
