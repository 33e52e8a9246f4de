"""Arrow and Parquet: types, keys, schemas, files and queries of tables."""
