"""Bytes of pictures: formats, decoding, hashes, the stored JPEG, and the pixels a model sees."""
