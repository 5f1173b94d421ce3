"""Ask a language model, pay once, keep every answer.

One client for stored and live answers; the store keeps each as it arrives; costs are
said before anything is asked.
"""

from nbutils.llm.costs import price_table as price_table
from nbutils.llm.store import Store as Store
