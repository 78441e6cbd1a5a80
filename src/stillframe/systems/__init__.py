"""What is installed: operating systems recognised from the files of volumes."""
