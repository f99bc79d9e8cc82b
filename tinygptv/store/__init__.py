"""The foundation of every step: artifacts and their storage on disk or S3; memory and progress."""
