"""A disk that is to start by other firmware: what is on it, the plan, and the loader that it gets."""
