"""Objects off the machine: named bytes in a folder, in object storage or behind SFTP. Knows nothing of sets."""
