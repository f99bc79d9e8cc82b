"""URLs → bytes: the engines, and what all of them must refuse."""
