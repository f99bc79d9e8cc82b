"""Parts of a connector, one file each. Needs no torch.

`tinygptv/models/connector_parts/` holds a file of the same name with the module.
"""
