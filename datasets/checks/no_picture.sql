-- A sample without pixels would stop training in the middle of an epoch.
SELECT key, width, height, bytes FROM new WHERE coalesce(least(width, height, bytes), 1) <= 0 ORDER BY key
