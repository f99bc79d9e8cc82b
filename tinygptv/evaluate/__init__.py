"""Answers → numbers → report."""
