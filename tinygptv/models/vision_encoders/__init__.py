"""Vision encoders in torch, one file each, of the same name as in `definitions/vision_encoders/`."""
