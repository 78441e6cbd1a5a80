"""What a person is shown, in which order, and the work behind it."""
