"""The generative judge (paper, Stage I): an LLM that reads and matches, and never solves the problem again."""
