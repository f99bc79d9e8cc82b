-- A key names one sample: two samples under one key cannot be told apart later.
SELECT key, count(*) AS times FROM new GROUP BY key HAVING count(*) > 1 ORDER BY key
