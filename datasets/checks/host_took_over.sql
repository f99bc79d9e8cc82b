-- A host that suddenly holds a much larger share of the samples brings its own look, language and errors.
WITH shares AS (
    SELECT host,
        count(*) FILTER (version = 'new') AS rows_now,
        count(*) FILTER (version = 'new') / nullif((SELECT count(*) FROM new), 0) AS share_now,
        count(*) FILTER (version = 'old') / nullif((SELECT count(*) FROM old), 0) AS share_before
    FROM (SELECT host, 'new' AS version FROM new UNION ALL SELECT host, 'old' FROM old)
    WHERE host IS NOT NULL
    GROUP BY host
)
SELECT host, rows_now, round(share_before, 3) AS share_before, round(share_now, 3) AS share_now
FROM shares WHERE rows_now > 100 AND share_now > share_before + 0.2 ORDER BY host
