"""Read images inside tars, arrow's files and parquet where they lie.

Records of a tar and of an arrow file are found by offset and size, those of parquet by group and row. All files of data
from outside are opened in `opened`.
"""
