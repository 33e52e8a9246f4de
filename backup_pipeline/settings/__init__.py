"""backup.yaml and the environment, read into frozen typed settings. No other file is opened here."""
