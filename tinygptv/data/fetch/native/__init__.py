"""The native engine: polite, guarded fetching by the threads of one process over kept connections."""
