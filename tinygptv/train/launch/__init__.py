"""Processes of a training: torchrun, its agents on every machine, their signs of life and their ends."""
