"""The documents: their blocks, the commands in them, the sites on which those are run."""
