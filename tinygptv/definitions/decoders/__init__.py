"""Decoder families, one file each: the pydantic class, and what its published files look like. Needs no torch.

`tinygptv/models/decoders/` holds a file of the same name with the layers.
"""
