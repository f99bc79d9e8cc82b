"""The native engine: polite, guarded fetching in one process over persistent connections."""
