"""Clients of chat models: any OpenAI-compatible endpoint, or a model in this process."""
