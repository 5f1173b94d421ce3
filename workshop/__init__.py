"""What a workshop needs beside the pages: a site to read, slides, a bundle to install.

Run as `python -m workshop site`, `slides` or `bundle`.
"""
