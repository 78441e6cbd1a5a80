"""What is to be done without a person: answers, where they come from, and carrying them out."""
