"""Vision encoders, one file each. Needs no torch.

`tinygptv/models/vision_encoders/` holds a file of the same name with the module.
"""
