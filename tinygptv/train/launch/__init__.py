"""Processes of a training: torchrun, its agents on every machine, heartbeats, and how processes end."""
