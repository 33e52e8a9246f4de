"""The order pair's format: data.csv, meta.json, schema versions, migrations, places."""
