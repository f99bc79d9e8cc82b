"""What every step stands on: artifacts and where they lie, on disk or S3; memory and progress."""
