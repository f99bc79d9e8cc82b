"""One file per metric. A benchmark names it by its file stem, and `METRIC` in it is an `evaluate.metric.Metric`."""
