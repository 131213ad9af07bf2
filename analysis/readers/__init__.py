"""Logs in: files and tables of other programs become `analysis.schema.Run`, row by row, with what was left out."""
