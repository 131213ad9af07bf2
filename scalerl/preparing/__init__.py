"""From raw rows to train.json, eval.json and test.json: readers, columns, duplicates, contamination, splits.

`scalerl.preparing.pipeline.prepare_rows` goes through the stages in order. Needs no torch; `datasketch` is imported
where near duplicates are looked for, `pyarrow` where Parquet or Arrow files are read, `tokenizers` for token budgets.
"""
