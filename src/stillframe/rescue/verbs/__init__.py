"""The verbs of Stillframe as child processes, and what they tell."""
