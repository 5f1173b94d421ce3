"""One file a page: each plot returns a figure and a sentence that says what is seen.

The sentence, with its numbers, is printed below and is the image's alternative text.
Data frames and arrays in, nothing of the other rooms; `style` holds what all share.
"""
