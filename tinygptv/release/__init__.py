"""A trained stage → a merged model folder, its int8 variant, and answers from either."""
