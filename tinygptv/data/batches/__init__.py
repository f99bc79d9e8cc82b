"""Mixture → batches of tensors."""
