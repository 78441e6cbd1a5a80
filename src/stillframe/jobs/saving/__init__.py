"""What a backup is made of: sources held still, read, cut into chunks, stored, described and read back."""
