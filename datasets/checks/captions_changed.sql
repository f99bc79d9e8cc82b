-- Captions half or twice as long as before come from another column, language or cleaning.
SELECT round(before.length, 1) AS letters_before, round(after.length, 1) AS letters_now
FROM (SELECT avg(length(caption)) AS length FROM old) AS before, (SELECT avg(length(caption)) AS length FROM new) AS after
WHERE after.length NOT BETWEEN 0.5 * before.length AND 2 * before.length
