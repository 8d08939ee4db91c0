"""Ranking data: Parquet logs and their schemas in, batches of `RaggedFeatures` out.

`open_ranking_data` opens a log, `check` names what is wrong with one, `get_data_set` fetches a
registered one, `generate_stream` makes one with a known Bayes error. Names are imported on first use, so that
importing this package costs nothing.
"""
