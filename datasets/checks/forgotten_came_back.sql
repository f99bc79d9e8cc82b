-- What somebody asked to be forgotten must not be published again.
SELECT key, url FROM forgotten ORDER BY key
