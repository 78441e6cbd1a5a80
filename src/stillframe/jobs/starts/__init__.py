"""What a restored system needs changed so that it starts: on a workbench, before any of it is true."""
