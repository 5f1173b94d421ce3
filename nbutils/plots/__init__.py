"""One file a page: each plot returns a figure and a sentence that says what is seen."""
