-- A version that lost more than a tenth of the last one's samples is more likely an accident than news.
SELECT before.rows AS rows_before, after.rows AS rows_now
FROM (SELECT count(*) AS rows FROM old) AS before, (SELECT count(*) AS rows FROM new) AS after
WHERE after.rows < 0.9 * before.rows
