-- A picture without words teaches nothing about words.
SELECT key, url FROM new WHERE trim(caption) = '' OR caption IS NULL ORDER BY key
