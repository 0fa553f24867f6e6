"""Read images inside tar, arrow and parquet files where they lie.

Records of a tar or an arrow file are found by offset and size, those of parquet by group and row. All data files from
outside are opened in `opened`.
"""
