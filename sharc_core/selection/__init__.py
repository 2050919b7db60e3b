"""Which samples of a task the memory keeps."""
