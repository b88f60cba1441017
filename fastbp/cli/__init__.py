"""The commands of python -m fastbp."""
