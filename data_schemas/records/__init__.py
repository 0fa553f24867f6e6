"""Records of containers: pictures inside tars, arrow's files and parquet, read where they lie."""
