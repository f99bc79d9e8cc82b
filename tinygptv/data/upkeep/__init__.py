"""Verification and repair of finished artifacts."""
