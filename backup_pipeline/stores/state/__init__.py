"""What is known of sets, kept in a PostgreSQL database for workers that share no disk."""
