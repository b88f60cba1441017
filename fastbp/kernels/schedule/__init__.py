"""Jobs: records, scratch memory, the queue and its threads."""
