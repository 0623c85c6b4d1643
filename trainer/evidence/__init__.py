"""What can be shown about a scrubbed model: samples, metrics, retrained models, thresholds, the record and the report.

`evaluation` measures one model, `collect` puts the models of a run side by side and writes the record and the report.
"""
