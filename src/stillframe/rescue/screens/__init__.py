"""The pages on a terminal, by Textual. The only room that imports it."""
