"""Folders: a tarball with a listing of its members."""
