"""Features: what a stage's frozen parts make of its images, computed once."""
