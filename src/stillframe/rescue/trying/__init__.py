"""What is tried before the disaster: does the medium fit this machine, and does the way back work?"""
