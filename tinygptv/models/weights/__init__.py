"""Weights in and out: published and own files → a model, and a model → files that others can load."""

from tinygptv.models.weights.anew import ADDED_NORMS, LORA
from tinygptv.models.weights.files import open_weights, save_trained
from tinygptv.models.weights.loading import (
    Handoff,
    LoadReport,
    empty_model,
    load_state,
    load_weights,
    open_handoff,
    parameters_by_name,
    trained_file,
)

__all__ = [
    "ADDED_NORMS",
    "LORA",
    "Handoff",
    "LoadReport",
    "empty_model",
    "load_state",
    "load_weights",
    "open_handoff",
    "open_weights",
    "parameters_by_name",
    "save_trained",
    "trained_file",
]
