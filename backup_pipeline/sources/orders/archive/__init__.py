"""The archive on disk: order folders, index, reading and writing pairs."""
