"""pixel_values → vision_encoder → image_features → connector → image_embeds → language_model.

Letters used for shapes everywhere below: B batch, I images in a batch, N visual tokens, Q queries, T text tokens,
D width, V vocabulary.
"""
