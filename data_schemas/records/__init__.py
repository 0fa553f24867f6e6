"""Records of containers: images inside tars, arrow's files and parquet, read where they lie."""
