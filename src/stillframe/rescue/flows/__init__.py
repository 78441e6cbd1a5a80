"""What a person is led through, page by page; plain code that draws nothing."""
