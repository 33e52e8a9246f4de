"""Order archives: one database table and a folder with data.csv and meta.json for each order."""
