"""What a stage needs on a machine, and which settings make it fit, before anything starts."""
