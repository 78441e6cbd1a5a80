"""The rescue medium: built, tried, and what runs on it."""
