"""WebDataset shards and their sidecars: written, read, brought from S3."""
