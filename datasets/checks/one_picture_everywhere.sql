-- One picture under many addresses is what hosts answer instead of a picture: "not found", "no hotlinking".
SELECT sha256, count(*) AS times, any_value(url) AS for_instance
FROM new GROUP BY sha256 HAVING count(*) > 20 AND count(*) > 0.001 * (SELECT count(*) FROM new) ORDER BY sha256
