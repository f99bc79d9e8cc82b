"""One file per objective. A stage names it by its file stem, and `OBJECTIVE` in it is a `train.objective.Objective`."""
