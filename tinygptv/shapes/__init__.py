"""The embedded corpus: scenes with exact ground truth (`scenes`), and text about them (`language`)."""
