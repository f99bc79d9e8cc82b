"""Connector parts in torch, one file each, of the same name as in `definitions/connector_parts/`."""
