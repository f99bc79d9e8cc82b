"""Decoders in torch, one file per family, of the same name as in `definitions/decoders/`."""
