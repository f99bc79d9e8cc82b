-- Pages die at a few per cent a year. If far more are gone at once, a network or a large host was down.
SELECT count(*) AS gone, (SELECT count(*) FROM old_raw) AS of_rows
FROM old_raw ANTI JOIN new_raw USING (key)
HAVING count(*) > 20 AND count(*) > 0.05 * (SELECT count(*) FROM old_raw)
