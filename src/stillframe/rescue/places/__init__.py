"""Where repositories and files may be: volumes, shares, closed volumes; found, opened and closed again."""
