"""Where backup sets live, behind one contract of streams. Knows nothing of what is in a file."""
