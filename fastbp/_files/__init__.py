"""Files: what is written, replaced and read again."""
