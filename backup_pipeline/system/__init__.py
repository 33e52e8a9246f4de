"""Operating system services: processes, locks, files, compressed streams, time limits, logs, notifications."""
