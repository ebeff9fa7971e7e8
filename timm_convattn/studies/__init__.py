"""Studies: plan (matrix, data, history), run (execution), read (findings, evidence, statistics), write (report)."""
