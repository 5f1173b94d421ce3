"""Ask a language model, pay once, keep every answer; costs are said before."""

from nbutils.llm.costs import price_table
