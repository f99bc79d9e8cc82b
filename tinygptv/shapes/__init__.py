"""The embedded corpus: scenes with exact ground truth (`scenes`), and what can be said about them (`language`)."""
