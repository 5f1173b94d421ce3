"""A notebook's run: what a page calls, and how pages are executed headless."""

from nbutils.core.machine import describe_machine
from nbutils.pages.run import explore, start, table
